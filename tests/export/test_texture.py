"""Textures: baked colours against the colours of the points that they are seen at."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.export.mesh import MeshConfig, extract_mesh
from dreamfusion_jax.export.texture import Paint, bake, unwrap

R = 0.6


def ball(points):
    return 300.0 * jnp.exp(-60.0 * jnp.maximum(jnp.linalg.norm(points, axis=-1) - R, 0.0))


def stripes(points):
    """Colours that are the same along the normals of a ball, and far from linear."""
    direction = points / jnp.linalg.norm(points, axis=-1, keepdims=True)
    return 0.5 + 0.5 * jnp.sin(6.0 * direction)


@pytest.fixture(scope="module")
def painted():
    config = MeshConfig(resolution=40, faces=1500, texture=256)
    return extract_mesh(ball, stripes, radius=1.0, config=config)


def test_the_texture_has_the_colours_of_the_field_everywhere(painted):
    """Random points of faces, not vertices: vertex colours would fail between the stripes."""
    points, face = trimesh.sample.sample_surface(painted, 4000, seed=0)
    share = trimesh.triangles.points_to_barycentric(painted.triangles[face], points)
    uv = (share[..., None] * painted.visual.uv[painted.faces[face]]).sum(axis=1)
    picture = painted.visual.material.baseColorTexture
    seen = trimesh.visual.color.uv_to_interpolated_color(uv, picture)[:, :3] / 255
    error = np.abs(seen - np.asarray(stripes(jnp.asarray(points, jnp.float32))))
    assert error.mean() < 0.01 and error.max() < 0.12


def test_texels_between_charts_continue_them(painted):
    picture = np.asarray(painted.visual.material.baseColorTexture)
    assert picture.shape == (256, 256, 3)
    # A texture that was not dilated is black in a third of its texels; the stripes hardly ever.
    assert (picture.sum(axis=-1) == 0).mean() < 0.001


def test_dilation_takes_the_nearest_texel():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    charts = unwrap(vertices, np.array([[0, 1, 2]], np.int32), 32)
    normals = np.tile(np.float32([0, 0, 1]), (3, 1))
    texture = bake(lambda points, _: np.abs(points), vertices[charts.origin], normals, charts, 32)
    corner = charts.uv[list(charts.origin).index(1)]
    row, column = (np.array([1 - corner[1], corner[0]]) * 31.99).astype(int)
    np.testing.assert_allclose(texture[row, column], [1, 0, 0], atol=0.12)
    assert (texture.max(axis=-1) > 0).mean() > 0.99


def test_normals_are_one_along_the_cuts(painted):
    places = [tuple(p) for p in np.round(painted.vertices, 6).tolist()]
    assert len(set(places)) < len(places)
    normal_at = dict(zip(places, painted.vertex_normals, strict=True))
    for place, normal in zip(places, painted.vertex_normals, strict=True):
        np.testing.assert_array_equal(normal, normal_at[place])


def test_rays_that_come_down_see_the_outer_paint():
    """Blue under 0.1 of red, which is dense: only the red is seen, as by closed form."""
    paint = Paint(
        lambda p: jnp.where(p[:, 2] < 0, 30.0, 0.0),
        lambda p: jnp.where(p[:, 2:] < -0.05, jnp.array([[0.0, 0, 1]]), jnp.array([[1.0, 0, 0]])),
        reach=0.1,
    )
    colour = paint(np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32))
    total, red = -np.expm1(-30 * 0.2), -np.expm1(-30 * 0.05)
    np.testing.assert_allclose(colour[0], [red / total, 0, 1 - red / total], atol=2e-3)


def test_a_point_that_no_ray_stops_at_keeps_its_own_colour():
    paint = Paint(lambda p: jnp.zeros(len(p)), stripes, reach=1e-4)
    points = np.array([[0.1, 0.2, 0.3]], np.float32)
    colour = paint(points, np.array([[0, 0, 1]], np.float32))
    np.testing.assert_allclose(colour, stripes(jnp.asarray(points)), atol=1e-2)


def test_glb_holds_texture_normals_and_a_matt_material(painted, tmp_path):
    save_mesh(painted, tmp_path / "a.glb")
    loaded = trimesh.load_mesh(tmp_path / "a.glb", process=False)
    material = loaded.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0, 1)
    np.testing.assert_array_equal(
        np.asarray(material.baseColorTexture.convert("RGB")),
        np.asarray(painted.visual.material.baseColorTexture),
    )
    np.testing.assert_allclose(loaded.visual.uv, painted.visual.uv, atol=1e-6)
    # trimesh's reader finds normals of its own: those of the file are read by hand.
    data = (tmp_path / "a.glb").read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    document = json.loads(data[20 : 20 + length])
    at = document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]
    view = document["bufferViews"][document["accessors"][at]["bufferView"]]
    start = 28 + length + view.get("byteOffset", 0)
    normals = np.frombuffer(data[start : start + view["byteLength"]], np.float32).reshape(-1, 3)
    np.testing.assert_allclose(normals, painted.vertex_normals[:, [1, 2, 0]], atol=1e-6)


def test_obj_comes_with_its_material_and_texture(painted, tmp_path):
    files = save_mesh(painted, tmp_path / "toy.obj")
    assert sorted(f.name for f in files) == ["toy.mtl", "toy.obj", "toy.png"]
    assert "mtllib toy.mtl" in (tmp_path / "toy.obj").read_text()
    assert "map_Kd toy.png" in (tmp_path / "toy.mtl").read_text()
    with Image.open(tmp_path / "toy.png") as picture:
        np.testing.assert_array_equal(picture, painted.visual.material.baseColorTexture)
    loaded = trimesh.load_mesh(tmp_path / "toy.obj", process=False)
    assert len(loaded.faces) == len(painted.faces)
    assert loaded.visual.material.image.size == (256, 256)


def test_the_same_field_gives_the_same_bytes(painted, tmp_path):
    config = MeshConfig(resolution=40, faces=1500, texture=256)
    again = extract_mesh(ball, stripes, radius=1.0, config=config)
    for name, mesh in (("a", painted), ("b", again)):
        save_mesh(mesh, tmp_path / f"{name}.glb")
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_ply_of_a_textured_mesh_has_vertex_colours(painted, tmp_path):
    save_mesh(painted, tmp_path / "a.ply")
    loaded = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    expected = np.asarray(stripes(jnp.asarray(loaded.vertices, jnp.float32)))
    assert np.abs(loaded.visual.vertex_colors[:, :3] / 255 - expected).mean() < 0.03

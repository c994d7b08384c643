import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.export.mesh import MeshConfig, extract_mesh, simplify
from dreamfusion_jax.export.surface import choose_threshold, find_surface

R = 0.6
SPHERE = 4 / 3 * np.pi * R**3


def sphere(centre=(0.0, 0.0, 0.0), radius=R, density=300.0, sharpness=60.0):
    """A ball of a density whose logarithm falls linearly outside."""

    def density_fn(points):
        outside = jnp.linalg.norm(points - jnp.array([centre]), axis=-1) - radius
        return density * jnp.exp(-sharpness * jnp.maximum(outside, 0.0))

    return density_fn


def direction_colours(points):
    """The same all along a normal of a sphere, and so whatever ray comes down on it."""
    return points / jnp.linalg.norm(points, axis=-1, keepdims=True) / 2 + 0.5


def extract(density_fn, resolution=48, **kwargs):
    config = MeshConfig(resolution, smoothing=0.0, faces=0, texture=0)
    return extract_mesh(density_fn, direction_colours, radius=1.0, config=config, **kwargs)


def test_sphere_has_its_volume_and_faces_outwards():
    def soft(points):
        return 50.0 * jnp.exp(-8.0 * (jnp.linalg.norm(points, axis=-1) - R))

    mesh = extract(jax.jit(soft), threshold=50.0)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(SPHERE, rel=5e-3)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=-1), R, atol=3e-3)
    outward = (mesh.face_normals * mesh.triangles_center).sum(-1)
    assert (outward[mesh.area_faces > 1e-9] > 0).all()
    direction = mesh.vertices / np.linalg.norm(mesh.vertices, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        mesh.visual.vertex_colors[:, :3], 255 * (direction / 2 + 0.5), atol=0.6
    )
    np.testing.assert_allclose(mesh.vertex_normals, direction, atol=0.02)


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize(
    ("density", "sharpness", "fog"),
    [(30.0, 60.0, 0.0), (300.0, 60.0, 0.1), (1e4, 200.0, 0.2), (5.0, 300.0, 0.0)],
)
def test_automatic_threshold_finds_the_visible_surface(density, sharpness, fog, resolution):
    """The rendered silhouette, by the closed form of its edge, agrees with the mesh's."""
    ball = sphere(density=density, sharpness=sharpness)
    mesh = extract(lambda points: ball(points) + fog, resolution)
    # A line of sight at distance b from the centre is half opaque where this is ln 2.
    s = np.linspace(-1, 1, 2001)
    offsets = np.linspace(0, 0.99, 500)[:, None]
    r = np.sqrt(offsets**2 + s**2)
    tau = np.where(r < 1, density * np.exp(-sharpness * np.maximum(r - R, 0)) + fog, 0)
    edge = offsets[np.trapezoid(tau, s, axis=-1) > np.log(2)].max()
    voxel = 2 / (resolution - 1)
    assert abs(mesh.extents / 2 - edge).max() < voxel
    assert mesh.is_watertight


def test_threshold_of_a_step_is_between_its_sides():
    axis = np.linspace(-1, 1, 40)
    norm = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis)))
    step = np.where(norm < R, 200.0, 0.01).astype(np.float32)
    assert 0.02 < choose_threshold(step, axis[1] - axis[0]) < 190


def test_crumbs_are_dropped_and_cavities_filled():
    def ball(points, height, radius):
        norm = jnp.linalg.norm(points - jnp.array([[0.0, 0.0, height]]), axis=-1)
        return 100.0 * jnp.exp(-40.0 * (norm - radius))

    @jax.jit
    def density_fn(points):
        shell = jnp.where(jnp.linalg.norm(points, axis=-1) < 0.35, 0.0, ball(points, 0.0, 0.5))
        return shell + ball(points, 0.8, 0.15) + ball(points, -0.8, 0.08)

    mesh = extract(density_fn, 96, threshold=100.0)
    volumes = sorted(part.volume for part in mesh.split())
    np.testing.assert_allclose(volumes, [4 / 3 * np.pi * r**3 for r in (0.15, 0.5)], rtol=0.02)


def test_a_field_that_fills_the_sphere_is_closed_at_it():
    mesh = extract(lambda points: jnp.full(points.shape[0], 50.0), 64)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.04)


@pytest.mark.parametrize(
    ("density", "threshold", "message"),
    [(0.0, None, "half opaque"), (0.1, None, "half opaque"), (3.0, 5.0, "largest density is 3")],
)
def test_an_empty_field_is_an_error(density, threshold, message):
    with pytest.raises(ValueError, match=message):
        extract(lambda points: jnp.full(points.shape[0], density), 16, threshold=threshold)


def test_a_field_of_nan_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        extract(lambda points: jnp.full(points.shape[0], jnp.nan), 16)


@pytest.fixture(scope="module")
def pear():
    """A ball with a smaller one in front (+x), another half up its left side (+y, +z)."""
    balls = [sphere(radius=0.4), sphere((0.5, 0, 0), 0.25), sphere((0, 0.45, 0.45), 0.1)]
    return extract(lambda points: sum(ball(points) for ball in balls), 32)


def test_glb_keeps_geometry_colours_and_orientation(pear, tmp_path):
    save_mesh(pear, tmp_path / "pear.glb")
    # trimesh's reader drops vertex colours where there is a material without a texture.
    loaded = trimesh.load_mesh(tmp_path / "pear.glb", process=False, skip_materials=True)
    # glTF: +y is up, +z the front; right-handed as the world is, so +x is the world's y.
    x, y, z = np.asarray(pear.vertices, np.float32).T
    np.testing.assert_array_equal(np.asarray(loaded.vertices, np.float32), np.stack([y, z, x], -1))
    np.testing.assert_array_equal(loaded.faces, pear.faces)
    assert loaded.bounds[1, 2] > 0.7 and loaded.volume > 0
    whole = trimesh.load_mesh(tmp_path / "pear.glb")
    assert whole.visual.material.metallicFactor == 0

    linear = loaded.visual.vertex_colors[:, :3] / 255
    half_step = 0.5 / 255
    colour = pear.visual.vertex_colors[:, :3] / 255
    decoded = np.clip([linear - half_step, linear + half_step], 0, 1)
    low, high = np.where(
        decoded <= 0.0031308, 12.92 * decoded, 1.055 * decoded ** (1 / 2.4) - 0.055
    )
    assert (low - 1e-5 <= colour).all() and (colour <= high + 1e-5).all()


def test_obj_keeps_geometry_and_colours(pear, tmp_path):
    save_mesh(pear, tmp_path / "pear.obj")
    loaded = trimesh.load_mesh(tmp_path / "pear.obj", process=False, maintain_order=True)
    np.testing.assert_allclose(loaded.vertices, pear.vertices[:, [1, 2, 0]], atol=1e-7)
    np.testing.assert_array_equal(loaded.visual.vertex_colors, pear.visual.vertex_colors)


def test_other_suffixes_are_named(pear, tmp_path):
    with pytest.raises(ValueError, match=r"\.glb, \.obj, \.ply, \.stl, not as '\.fbx'"):
        save_mesh(pear, tmp_path / "pear.fbx")


def test_ply_keeps_the_axes_of_the_world(pear, tmp_path):
    save_mesh(pear, tmp_path / "pear.ply")
    loaded = trimesh.load_mesh(tmp_path / "pear.ply", process=False)
    np.testing.assert_allclose(loaded.vertices, pear.vertices, atol=1e-7)
    np.testing.assert_array_equal(loaded.visual.vertex_colors, pear.visual.vertex_colors)


@pytest.mark.parametrize("texture", [0, 32])
def test_stl_is_closed_and_as_large_as_asked(tmp_path, texture):
    config = MeshConfig(24, texture=texture)
    mesh = extract_mesh(sphere((0.3, 0, 0)), direction_colours, radius=1.0, config=config)
    save_mesh(mesh, tmp_path / "ball.stl", millimetres=40.0)
    printed = trimesh.load_mesh(tmp_path / "ball.stl")
    assert printed.is_watertight and printed.is_winding_consistent
    assert printed.extents.max() == pytest.approx(40.0, rel=1e-5)
    np.testing.assert_allclose(printed.bounds[:, :2].sum(axis=0), 0.0, atol=1e-4)
    assert printed.bounds[0, 2] == pytest.approx(0.0, abs=1e-5)
    assert printed.volume == pytest.approx(4 / 3 * np.pi * 20.0**3, rel=0.05)


def test_an_open_mesh_is_not_printed(pear, tmp_path):
    pear = trimesh.Trimesh(pear.vertices, pear.faces[1:], process=False)
    with pytest.raises(ValueError, match="not closed"):
        save_mesh(pear, tmp_path / "pear.stl")
    assert not list(tmp_path.iterdir())


def test_simplifying_keeps_the_sphere_and_closes_it():
    fine = extract(sphere(), 48, threshold=100.0)
    vertices, faces = simplify(fine.vertices, fine.faces, 600)
    coarse = trimesh.Trimesh(vertices, faces, process=False)
    assert len(fine.faces) > 5000 and len(faces) <= 600
    assert coarse.is_watertight
    assert coarse.volume == pytest.approx(fine.volume, rel=0.02)
    assert simplify(fine.vertices, fine.faces, 0)[1] is fine.faces


def test_smoothing_takes_out_the_creases_of_cells_and_keeps_the_size():
    """A density of steps, as of a field whose cells are seen."""

    def cells(points):
        return sphere()((jnp.floor(points / 0.1) + 0.5) * 0.1)

    def roughness(smoothing):
        surface = find_surface(cells, radius=1.0, resolution=64, smoothing=smoothing)
        mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
        direction = mesh.vertices / np.linalg.norm(mesh.vertices, axis=-1, keepdims=True)
        turn = np.arccos(np.clip((surface.normal(mesh.vertices) * direction).sum(-1), -1, 1))
        return np.degrees(turn).mean(), mesh.volume, surface.agreement

    (rough, volume, _), (smooth, kept, agreement) = roughness(0.0), roughness(0.08)
    assert rough > 15 and smooth < 5
    assert kept == pytest.approx(volume, rel=0.05)
    # Off by less than a quarter of a cell, all along the silhouette of cells: 2 * 0.025 / R.
    assert agreement > 0.92


def test_what_was_chosen_is_reported():
    mesh = extract(sphere(), 48)
    assert mesh.metadata["agreement"] > 0.98
    assert 1 < mesh.metadata["threshold"] < 300

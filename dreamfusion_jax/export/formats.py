"""Files of meshes: GLB and OBJ for viewers, PLY for tools, STL for printers."""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamfusion_jax.files import write_whole

if TYPE_CHECKING:
    import trimesh

HEADER = "dreamfusion_jax"
"""First line of OBJ files."""

SUFFIXES = (".glb", ".obj", ".ply", ".stl")
"""The kinds of files that are written."""


def save_mesh(
    mesh: "trimesh.Trimesh", path: str | pathlib.Path, *, millimetres: float = 100.0
) -> tuple[pathlib.Path, ...]:
    """Writes a mesh; the suffix says what kind of file it becomes.

    - .glb: y up, the front (azimuth 0) towards +z; texture or vertex colours, a matt material.
    - .obj: the same axes; with a texture, a .mtl and a .png of the same name lie beside it.
    - .ply: z up, the front towards +x, as the world is; vertex colours and normals.
    - .stl: the axes of .ply, no colours; millimetres, standing on z = 0.

    Args:
        mesh: With a texture or vertex colours; see `mesh.extract_mesh`.
        path: Where.
        millimetres: The longest side of an STL file.

    Returns:
        The files, the one asked for first.

    Raises:
        ValueError: Another suffix, or an STL file of a mesh that is not closed.
        OSError: A file cannot be written.
    """
    path = pathlib.Path(path)
    match path.suffix:
        case ".glb":
            files = {path: _glb(mesh)}
        case ".obj":
            files = _obj(mesh, path)
        case ".ply":
            files = {path: _ply(mesh)}
        case ".stl":
            files = {path: _stl(mesh, millimetres)}
        case suffix:
            raise ValueError(f"a mesh is written as {', '.join(SUFFIXES)}, not as {suffix!r}")
    for name, content in files.items():
        write_whole(name, content)
    return tuple(files)


def _visual(mesh: "trimesh.Trimesh") -> Any:
    """What colours the mesh. trimesh declares less of its visuals than they have."""
    return mesh.visual


def _textured(mesh: "trimesh.Trimesh") -> bool:
    return _visual(mesh).kind == "texture"


def _facing_z(mesh: "trimesh.Trimesh", visual: Any) -> "trimesh.Trimesh":
    """The mesh with y up: world (x, y, z) becomes (y, z, x), the right, the top, the front."""
    import trimesh

    return trimesh.Trimesh(
        mesh.vertices[:, [1, 2, 0]],
        mesh.faces,
        vertex_normals=mesh.vertex_normals[:, [1, 2, 0]],
        visual=visual,
        process=False,
    )


def _glb(mesh: "trimesh.Trimesh") -> bytes:
    """Colours of vertices are stored linear, as glTF wants them; a texture is sRGB as it is.

    A file without a material is metal to most viewers.
    """
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    visual = _visual(mesh)
    if not _textured(mesh):
        matt = PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0)
        visual = TextureVisuals(material=matt)
        visual.vertex_attributes["color"] = _linear(_visual(mesh).vertex_colors)
    return export_glb(_facing_z(mesh, visual), include_normals=True)


def _obj(mesh: "trimesh.Trimesh", path: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """The file, and its material and texture if it has them; colours are as they are."""
    from trimesh.exchange.obj import export_obj
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import SimpleMaterial

    visual = _visual(mesh)
    if not _textured(mesh):
        turned = _facing_z(mesh, ColorVisuals(vertex_colors=visual.vertex_colors))
        return {path: export_obj(turned, include_normals=True, header=HEADER).encode()}
    material = SimpleMaterial(visual.material.baseColorTexture, name=path.stem)
    material.specular = np.zeros(4)
    turned = _facing_z(mesh, TextureVisuals(visual.uv, material=material))
    text, others = export_obj(
        turned,
        include_normals=True,
        return_texture=True,
        write_texture=False,
        header=HEADER,
        mtl_name=f"{path.stem}.mtl",
    )
    return {path: text.encode()} | {path.parent / name: data for name, data in others.items()}


def _ply(mesh: "trimesh.Trimesh") -> bytes:
    import trimesh
    from trimesh.exchange.ply import export_ply

    visual = _visual(mesh)
    colours = visual.to_color() if _textured(mesh) else visual
    coloured = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=mesh.vertex_normals,
        vertex_colors=colours.vertex_colors,
        process=False,
    )
    return export_ply(coloured, vertex_normal=True)


def _stl(mesh: "trimesh.Trimesh", millimetres: float) -> bytes:
    import trimesh
    from trimesh.exchange.stl import export_stl

    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    solid.merge_vertices()  # Along the cuts of a texture.
    if not solid.is_watertight:
        raise ValueError("the mesh is not closed, and cannot be printed")
    solid.apply_scale(millimetres / solid.extents.max())
    middle = solid.bounds.mean(axis=0)
    solid.apply_translation([-middle[0], -middle[1], -solid.bounds[0, 2]])
    return export_stl(solid)


def _linear(colours: np.ndarray) -> np.ndarray:
    """8-bit sRGB colours with alpha to 8-bit linear ones (IEC 61966-2-1)."""
    encoded = colours[:, :3] / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.round(255 * linear), colours[:, 3:]], axis=-1).astype(np.uint8)

"""Exports the object of a run as a mesh: with a texture for viewers, closed for printers.

    python -m experiments.export outputs/a-red-mushroom-seed0 --format glb stl
    python -m experiments.export outputs/a-red-mushroom-seed0/scene.safetensors --faces 2000

Files are written into the run's folder, or to --output.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.export.mesh import MeshConfig
from dreamfusion_jax.runs.trained_scene import TrainedScene
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to export and how.

    Attributes:
        run: Folder of a run, or a scene.safetensors file.
        format: One file of each. glb and obj have y up, ply and stl z up; ply has the colours
            of its vertices, stl none.
        output: Folder of the files; the run's if not given.
        name: Of the files, without suffix.
        threshold: Density at the surface; chosen by the agreement of silhouettes if not given.
        millimetres: Longest side of the object in an stl file.
        mesh: Fineness.
    """

    run: tyro.conf.Positional[Path]
    format: tuple[Literal["glb", "obj", "ply", "stl"], ...] = ("glb",)
    output: Path | None = None
    name: str = "object"
    threshold: float | None = None
    millimetres: float = 100.0
    mesh: Annotated[MeshConfig, tyro.conf.arg(name="")] = MeshConfig()


def check(arguments: Arguments) -> None:
    """Refuses what makes no sense, before anything is loaded.

    Raises:
        UsageError: Names the option.
    """
    if not arguments.format:
        raise UsageError("--format must name at least one of glb, obj, ply, stl")
    if arguments.millimetres <= 0:
        raise UsageError(f"--millimetres must be above 0, not {arguments.millimetres:g}")
    if arguments.threshold is not None and arguments.threshold <= 0:
        raise UsageError(f"--threshold must be above 0, not {arguments.threshold:g}")


def main(argv: list[str] | None = None) -> None:
    """Exports from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        check(arguments)
        keep_compiled_programs()
        scene = TrainedScene.load(arguments.run)
        mesh = scene.mesh(arguments.mesh, threshold=arguments.threshold)
        chosen = mesh.metadata
        say(
            f"surface at density {chosen['threshold']:.3g}: its silhouettes agree with the "
            f"rendered opacity by {chosen['agreement']:.3f} (IoU); {len(mesh.faces)} faces"
        )
        beside = arguments.run if arguments.run.is_dir() else arguments.run.parent
        folder = arguments.output or beside
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in arguments.format:
            path = folder / f"{arguments.name}.{suffix}"
            for written in save_mesh(mesh, path, millimetres=arguments.millimetres):
                say(f"{written} ({written.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    as_program(main)

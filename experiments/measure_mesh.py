"""Measures meshes of runs: against their own fields, and against the truth of the toy world.

    python -m experiments.measure_mesh outputs/a-red-car-seed0 outputs/a-brown-chair-seed0

A mesh is read back from its file and drawn by another renderer, Embree's rays and look-ups in
the texture, from 16 views. Prints a table. Needs `embreex`, which '.[test]' installs.
"""

import dataclasses
from pathlib import Path

import tyro

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.evaluation.mesh_metrics import fidelity, read_mesh, shape
from dreamfusion_jax.runs.files import MESH
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.toybox.captions import UnknownWordsError, Vocabulary
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        runs: Folders of runs.
        mesh: Name of the mesh's file in each folder: .glb, .obj or .ply.
        size: Height and width of the views, pixels.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    mesh: str = MESH
    size: int = 128


HEADER = """\
| prompt | faces | PSNR, dB | inside, dB | IoU | Chamfer to truth | F-score at 0.03 |
| --- | --- | --- | --- | --- | --- | --- |"""


def row(folder: Path, name: str, size: int) -> str:
    """The line of the table of one run.

    Raises:
        ValueError: The run or its mesh cannot be read.
        OSError: See there.
    """
    scene, mesh = TrainedScene.load(folder), read_mesh(folder / name)
    near = fidelity(scene, mesh, size)
    prompt = scene.about.get("prompt", folder.name)
    try:
        true = shape(mesh, Vocabulary().scene(prompt))
        against_truth = f"{true.chamfer:.4f} | {true.f_score:.3f}"
    except UnknownWordsError:  # Not of the toy world.
        against_truth = "- | -"
    return (
        f"| {prompt} | {len(mesh.faces)} | {near.psnr:.1f} | {near.psnr_inside:.1f} | "
        f"{near.iou:.3f} | {against_truth} |"
    )


def main(argv: list[str] | None = None) -> None:
    """Measures from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        if not arguments.runs:
            raise UsageError("name at least one run's folder")
        if arguments.size < 16:
            raise UsageError(f"--size must be at least 16, not {arguments.size}")
        keep_compiled_programs()
        say(HEADER)
        for folder in arguments.runs:
            say(row(folder, arguments.mesh, arguments.size))


if __name__ == "__main__":
    as_program(main)

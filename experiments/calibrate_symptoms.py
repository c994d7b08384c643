"""Chooses the thresholds of the symptoms, and states how often they are mistaken.

    python -m experiments.calibrate_symptoms
    python -m experiments.calibrate_symptoms --runs outputs/*-seed* --faulty-runs bad/*-seed*
    python -m experiments.calibrate_symptoms --make outputs/without-views

True objects of the embedded prior's world, in all their colours, are well; each is also
examined with its front shown at its sides and its back, which is what several faces are, and
thinned, hazed and flattened. --runs are well, --faulty-runs are not; --make first makes runs
without view-dependent prompts, which takes minutes an object. Writes symptoms.json and
table.md to --output: for every symptom the threshold that 1 of 50 true objects exceeds, and the
shares that it calls faulty. 12 objects in 2 colours take two minutes on a CPU core.
"""

import dataclasses
import json
from pathlib import Path

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.evaluation.calibration import calibrate, examine_run, examine_truth
from dreamfusion_jax.evaluation.objects import make_objects
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.toybox.captions import caption
from dreamfusion_jax.toybox.world import Scene
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to examine and where to put it.

    Attributes:
        weights: Folder of the prior whose residual tells faces.
        categories: Of the true objects; all that the prior knows if none are given.
        colours: Of each of them.
        runs: Folders of finished runs that are well.
        faulty_runs: Folders of finished runs with several faces.
        make: Folder in which runs without view-dependent prompts are made first, one of each
            category, and then counted as faulty.
        output: Folder of the results.
    """

    weights: Path = toybox.SHIPPED
    categories: tuple[str, ...] = ()
    colours: tuple[str, ...] = ("red", "blue")
    runs: tuple[Path, ...] = ()
    faulty_runs: tuple[Path, ...] = ()
    make: Path | None = None
    output: Path = Path("outputs/symptoms")


def main(argv: list[str] | None = None) -> None:
    """Calibrates from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        if not arguments.colours:
            raise UsageError("--colours must not be empty")
        loaded = toybox.load(arguments.weights)
        categories = arguments.categories or loaded[0].vocabulary.categories
        scenes = [Scene(k, c) for k in categories for c in arguments.colours]
        faulty = arguments.faulty_runs
        if arguments.make is not None:
            blind = presets.changed(presets.TOYBOX, {"train.prompts.views": "none"})
            preset = dataclasses.replace(presets.preset("toybox"), config=blind)
            prompts = [caption(Scene(k, arguments.colours[0])) for k in categories]
            faulty += make_objects(prompts, (0,), arguments.make, preset, loaded, say=say)
        findings = []
        for scene in scenes:
            say(f"examining {caption(scene)}")
            findings += examine_truth(scene, *loaded)
        for folders, group in ((arguments.runs, "runs"), (faulty, "faulty runs")):
            findings += [examine_run(folder, *loaded, group=group) for folder in folders]
        result = calibrate(findings)
        arguments.output.mkdir(parents=True, exist_ok=True)
        content = json.dumps(result.to_json(), indent=2).encode()
        write_whole(arguments.output / "symptoms.json", content)
        write_whole(arguments.output / "table.md", result.table().encode())
        print(result.table())


if __name__ == "__main__":
    as_program(main)

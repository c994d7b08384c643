"""How fast each part of a step is here, and how near to what this machine can do.

    python -m experiments.benchmark
    python -m experiments.benchmark --presets toybox paper --compare torch

Every row is the median of many runs of one compiled program. Its operations and bytes are those
that XLA counts (the body of a loop once); the ceilings, a large matrix product in each type and a
large copy, are measured in the same run, and the share is that of the one which the row comes
nearest to. Prints a table and writes it as JSON. See docs/performance.md.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.benchmark.ceilings import Ceilings, Sizes, ceiling_cases
from dreamfusion_jax.benchmark.components import (
    Setting,
    prior_cases,
    scene_cases,
    scenes_case,
    shampoo_case,
    step_case,
)
from dreamfusion_jax.benchmark.latency import first_step
from dreamfusion_jax.benchmark.random_weights import random_stable_diffusion
from dreamfusion_jax.benchmark.table import Compared, as_json, compared_table, table
from dreamfusion_jax.benchmark.timing import Case, Measured, measure
from dreamfusion_jax.devices import describe_devices
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.toybox import SHIPPED
from experiments.command_line import (
    UsageError,
    as_program,
    one_line_errors,
    parsed,
    say,
    say_devices,
)

Part = Literal["scene", "prior", "optimizer", "step", "scenes", "latency"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to time, and for how long.

    Attributes:
        presets: Whose steps and parts.
        prompt: What the priors are asked for.
        weights: Of a pretrained prior: a folder or repository.
        configs: In the place of weights, a folder with configurations of Stable Diffusion in
            diffusers' layout, whose networks get random weights.
        parts: Which rows: of the scene, of the prior, the Shampoo update, whole steps, several
            scenes at once, and, of the embedded prior, a fresh program's first step.
        views: Of a step; the preset's if not given.
        scenes: How many scenes at once.
        seconds: To spend on each row, compilation aside.
        small: Small ceilings, which say little, for trying the program out.
        compare: Another implementation, timed in turn. PyTorch compiles for minutes on a CPU:
            "torch-eager" does without.
        output: The JSON file.
    """

    presets: tuple[str, ...] = ("toybox",)
    prompt: str = "a red mushroom"
    weights: str | None = None
    configs: Path | None = None
    parts: tuple[Part, ...] = get_args(Part)
    views: int | None = None
    scenes: tuple[int, ...] = (1, 4)
    seconds: float = 3.0
    small: bool = False
    compare: Literal["torch", "torch-eager"] | None = None
    output: Path = Path("outputs/benchmark.json")


def _settings(arguments: Arguments) -> list[Setting]:
    """The presets, with their priors.

    Raises:
        UsageError: There is no such preset.
        ValueError: A prior cannot be had, or a number makes no sense.
    """
    found = []
    for name in arguments.presets:
        if name not in [preset.name for preset in presets.PRESETS]:
            names = ", ".join(preset.name for preset in presets.PRESETS)
            raise UsageError(f"--presets takes {names}, not {name!r}")
        preset = presets.preset(name)
        config = preset.config
        if arguments.views is not None:
            config = presets.changed(config, {"train.views": arguments.views})
        latent = config.scene.latent
        if arguments.configs is not None and preset.prior == "stable-diffusion":
            prior, params = random_stable_diffusion(arguments.configs, latent)
        else:
            prior, params = load_prior(
                preset.prior, arguments.prompt, arguments.weights, latent=latent
            )
        preset = dataclasses.replace(preset, config=config)
        found.append(Setting(preset, prior, params, arguments.prompt))
    return found


def _cases(arguments: Arguments, setting: Setting) -> Iterator[Case]:
    """The rows of one preset."""
    parts = arguments.parts
    if "scene" in parts:
        yield from scene_cases(setting)
    if "prior" in parts:
        yield from prior_cases(setting)
    if "step" in parts:
        yield step_case(setting)
    if "scenes" in parts:
        yield from (scenes_case(setting, number) for number in arguments.scenes)


def _measure(arguments: Arguments, settings: list[Setting]) -> tuple[list[Measured], Ceilings]:
    """All rows, the ceilings first; says each when it is done."""
    sizes = Sizes(128, 1 << 16, 1 << 10, 1 << 12) if arguments.small else Sizes.usual()
    dtypes = ["float32", "bfloat16"] + ["float16"] * (jax.default_backend() != "cpu")
    rows: list[Measured] = []

    def take(case: Case) -> None:
        say(f"timing {case.name}")
        rows.append(measure(case, arguments.seconds))

    for case in ceiling_cases(sizes, dtypes):
        take(case)
    ceilings = Ceilings.of(rows)
    for setting in settings:
        for case in _cases(arguments, setting):
            take(dataclasses.replace(case, name=f"{setting.preset.name}: {case.name}"))
    if "optimizer" in arguments.parts:
        take(shampoo_case())
    if "latency" in arguments.parts:
        for setting in (one for one in settings if one.preset.prior == "toybox"):
            say(f"timing the first step of {setting.preset.name}")
            views = setting.config.train.views
            rows += first_step(setting.preset.name, arguments.prompt, views)
    return rows, ceilings


def _compare(arguments: Arguments, settings: list[Setting]) -> list[Compared]:
    """Rows of PyTorch's times beside ours."""
    if arguments.compare is None:
        return []
    from experiments.torch_networks import compare_networks
    from experiments.torch_peers import compare_rendering, renders

    rows = []
    for setting in settings:
        name = setting.preset.name
        if renders(setting.config.scene.field):
            say(f"comparing the rendering of {name} with PyTorch")
            rows += compare_rendering(setting, arguments.seconds)
        else:
            say(f"the field of {name} has no peer in PyTorch here: its rendering is not compared")
        folder = _layout(arguments, setting)
        if folder is None:
            say(f"the prior of {name} is in no folder: its networks are not compared")
            continue
        compiled = arguments.compare == "torch"
        for row in compare_networks(setting, folder, arguments.seconds, compiled=compiled):
            say(f"compared {row.name}")
            rows.append(row)
    return rows


def _layout(arguments: Arguments, setting: Setting) -> Path | None:
    """The folder with the configurations of a prior's networks, if there is one at hand."""
    weights, embedded = arguments.weights, setting.preset.prior == "toybox"
    given = weights or SHIPPED if embedded else arguments.configs or weights
    folder = None if given is None else Path(given)
    return folder if folder and (folder / "unet").is_dir() else None


def _report(rows: list[Measured], ceilings: Ceilings, compared: list[Compared]) -> dict[str, Any]:
    return {
        "device": describe_devices(),
        "jax": jax.__version__,
        "peak_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "rows": [as_json(row, ceilings) for row in rows],
        "compared": [dataclasses.asdict(row) for row in compared],
    }


def main(argv: list[str] | None = None) -> None:
    """Times from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        if arguments.compare and not all(map(importlib.util.find_spec, ("torch", "diffusers"))):
            raise UsageError("--compare torch needs PyTorch and diffusers: pip install '.[test]'")
        if arguments.seconds <= 0 or min(arguments.scenes, default=1) < 1:
            raise UsageError("--seconds and --scenes must be positive")
        say_devices()
        settings = _settings(arguments)
        rows, ceilings = _measure(arguments, settings)
        compared = _compare(arguments, settings)
        content = json.dumps(_report(rows, ceilings, compared), indent=2) + "\n"
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.output, content.encode())
        print(f"\n{table(rows, ceilings)}")
        if compared:
            print(f"\n{compared_table(compared, 'PyTorch')}")
        print(f"\n{arguments.output}")


if __name__ == "__main__":
    as_program(main)

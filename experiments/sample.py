"""Draws pictures of a prompt with a prior, to see what it knows.

    python -m experiments.sample --prompt "a red mushroom"

Writes one picture: a row for each view of the prompt, a column for each seed. MVDream draws four
sides of one object, a quarter of a turn apart.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from dreamfusion_jax.devices import OutOfMemoryError, device_errors
from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.distillation.demand import demand_of_pictures, duration
from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.priors.loading import USUAL_GUIDANCE, open_prior
from dreamfusion_jax.priors.opened import OpenedPrior
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams
from dreamfusion_jax.priors.prompts import PromptConfig, view_prompts
from dreamfusion_jax.priors.sampling import Solver, condition_of, sample
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.progress import Reporter
from dreamfusion_jax.runs.run import slug
from experiments.command_line import (
    UsageError,
    as_program,
    one_line_errors,
    parsed,
    say,
    say_devices,
)

_STEPS: dict[Solver, int] = {"ddim": 50, "dpm++": 20}
_LONG = 600.0
"""Seconds after which a user should have been told."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to draw and where to put it.

    Attributes:
        prompt: What to draw, for example "a red mushroom".
        negative_prompt: What to steer away from.
        prior: Which diffusion model draws.
        weights: Other weights for it: a folder, or a repository on the hub with @REVISION; of
            Stable Diffusion also one .safetensors file.
        lora: Files of LoRAs, FILE[:SCALE], that are merged into Stable Diffusion.
        prediction_type: What the UNet of a single file predicts, where the file does not tell.
        tokenizer: Folder or repository of the tokenizer of a single file, which holds none.
        views: "nearest" draws the paper's four views, "octants" eight sides and overhead,
            "none" the bare prompt. If not given, "none" for mvdream, which is told its cameras,
            "nearest" for the others.
        seeds: Number of pictures of each view.
        seed: The first one.
        steps: Denoising steps; 50 of ddim or 20 of dpm++ if not given.
        solver: "ddim", or "dpm++", DPM-Solver++(2M), which needs fewer steps.
        guidance_weight: omega of classifier-free guidance, one less than the usual "scale"; 0 is
            none. The prior's usual one if not given: 3 for toybox, 6.5 for stable-diffusion and
            mvdream, 6 for deepfloyd, whose pictures are kept in range as its scheduler says.
        together: Most pictures at once; all of a column if not given, and one by one (mvdream:
            four by four) where memory does not suffice for that.
        output: The PNG file; in outputs/samples/ if not given.
    """

    prompt: str = "a red mushroom"
    negative_prompt: str = ""
    prior: Literal["toybox", "stable-diffusion", "deepfloyd", "mvdream"] = "toybox"
    weights: str | None = None
    lora: tuple[str, ...] = ()
    prediction_type: FilePrediction | None = None
    tokenizer: str | None = None
    views: Literal["nearest", "octants", "none"] | None = None
    seeds: int = 6
    seed: int = 0
    steps: int | None = None
    solver: Solver = "ddim"
    guidance_weight: float | None = None
    together: int | None = None
    output: Path | None = None


def draw(arguments: Arguments) -> Path:
    """Draws the grid and returns its file.

    Raises:
        ValueError: The prior cannot read the prompt, or a number makes no sense.
        FileNotFoundError: No weights in that folder.
    """
    for name in ("seeds", "steps", "together"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    opened = open_prior(
        arguments.prior,
        arguments.prompt,
        arguments.weights,
        loras=arguments.lora,
        prediction_type=arguments.prediction_type,
        tokenizer=arguments.tokenizer,
        say=say,
    )
    group = opened.prior.group
    if arguments.together is not None and arguments.together % group:
        raise UsageError(f"--together must be a multiple of {group}, not {arguments.together}")
    texts = [arguments.prompt]
    views = arguments.views or ("nearest" if group == 1 else "none")
    if views != "none":
        texts = list(view_prompts(arguments.prompt, PromptConfig(views=views)))
    steps = arguments.steps or _STEPS[arguments.solver]
    _warn(opened, texts, steps, arguments.seeds)
    condition = condition_of(opened.prior, opened.text_params, texts, arguments.negative_prompt)
    with Reporter(shown=()) as reporter:
        params = opened.read(reporter.say)
        columns = _columns(opened.prior, params, condition, steps, arguments, reporter)
    sides = [f", {side * 360 // group} degrees" for side in range(group)] if group > 1 else [""]
    rows = [text + side for text in texts for side in sides]
    path = arguments.output or Path("outputs/samples") / f"{slug(arguments.prompt)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, contact_sheet(enlarge(jnp.stack(columns, axis=1)), rows))
    return path


def _warn(opened: OpenedPrior, texts: list[str], steps: int, seeds: int) -> None:
    """Says how long it takes, where that is long, before weights are read."""
    seconds = demand_of_pictures(opened, texts, steps, seeds).seconds
    if seconds > _LONG:
        say(f"these pictures take at least {duration(seconds)} on {jax.devices()[0].device_kind}")


def _columns(
    prior: Prior,
    params: PriorParams,
    condition: Condition,
    steps: int,
    arguments: Arguments,
    reporter: Reporter,
) -> list[jax.Array]:
    """A column of pictures for each seed, as few at a time as can be once memory has run out."""
    weight, together = arguments.guidance_weight, arguments.together
    columns: list[jax.Array] = []
    while len(columns) < arguments.seeds:
        parts = -(-condition.views // (together or condition.views))
        done = itertools.count(len(columns) * parts * steps + 1)
        total = arguments.seeds * parts * steps
        try:
            with device_errors("pictures", "fewer pictures together"):
                column = sample(
                    jax.random.key(arguments.seed + len(columns)),
                    prior,
                    params,
                    condition,
                    steps=steps,
                    guidance_weight=USUAL_GUIDANCE[arguments.prior] if weight is None else weight,
                    solver=arguments.solver,
                    together=together,
                    progress=lambda done=done, total=total: reporter(
                        Moment(next(done), total, lambda: None, {})
                    ),
                )
        except OutOfMemoryError as error:
            if prior.group in (together, condition.views):
                raise
            least = "one picture" if prior.group == 1 else f"{prior.group} pictures"
            reporter.say(f"{error}; {least} at a time from here on")
            together = prior.group
            continue
        columns.append(column)
    return columns


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        say_devices()
        print(draw(arguments))


if __name__ == "__main__":
    as_program(main)

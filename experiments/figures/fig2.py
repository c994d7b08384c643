"""Figure 2: ancestral sampling against score distillation, on pixels and on a constraint.

    python -m experiments.figures.fig2 --prompt "a red car, side view"

Score distillation runs twice, on free pixels and on a picture that is the mirror image of
itself; a sampler can only do the former. The embedded prior takes two minutes on a CPU core.
Writes fig2.png, fig2.pdf and fig2.json.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from dreamfusion_jax.distillation.flat import FlatConfig, FreePixels, Mirrored, distil_pictures
from dreamfusion_jax.looks.figures import save_figure, tiles
from dreamfusion_jax.presets import changed
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.sampling import condition_of, sample
from experiments.command_line import UsageError, as_program
from experiments.figures.making import Making, run


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompt: What the pictures show.
        seeds: Number of pictures of each kind.
        seed: Of everything random.
        guidance_weight: omega of classifier-free guidance; the preset's if not given.
        learning_rate: Of score distillation, in units of colour a step.
    """

    prompt: str = "a red car, side view"
    seeds: int = 4
    seed: int = 0
    guidance_weight: float | None = None
    learning_rate: float = 0.03


def draw(arguments: Arguments) -> Path:
    """Samples, distils twice, and draws the three rows.

    Raises:
        ValueError: The prior cannot read the prompt, or a number makes no sense.
    """
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {arguments.seeds}")
    preset = arguments.chosen
    weight = arguments.guidance_weight
    changes = {} if weight is None else {"train.distillation.guidance_weight": weight}
    distillation = changed(preset.config, changes).train.distillation
    config = FlatConfig(
        steps=arguments.steps or FlatConfig().steps,
        learning_rate=arguments.learning_rate,
        distillation=distillation,
    )
    # The object alone: a prior of the toy world is loaded by what it knows, not by views.
    thing = arguments.prompt.split(",")[0]
    prior, params = load_prior(preset.prior, thing, arguments.weights)
    condition = condition_of(prior, params, [arguments.prompt] * arguments.seeds)
    keys = jax.random.split(jax.random.key(arguments.seed), 3)
    guidance = getattr(distillation, "guidance_weight", 3.0)
    rows = {
        "ancestral sampling": sample(
            keys[0],
            prior,
            params,
            condition,
            steps=min(config.steps, 100),
            guidance_weight=guidance,
            eta=1.0,
        ),
        "SDS, free pixels": distil_pictures(
            keys[1], prior, params, condition, FreePixels(), config
        ),
        "SDS, x = (flip(θ), θ)": distil_pictures(
            keys[2], prior, params, condition, Mirrored(), config
        ),
    }
    pictures = {name: np.asarray(images) for name, images in rows.items()}
    figure = tiles([list(images) for images in pictures.values()], list(pictures))
    numbers = {
        "prompt": arguments.prompt,
        "guidance weight": guidance,
        "steps": config.steps,
        "asymmetry": {name: _asymmetry(images) for name, images in pictures.items()},
        "difference of seeds": {name: _spread(images) for name, images in pictures.items()},
    }
    return save_figure(arguments.output, "fig2", figure, numbers)


def _asymmetry(images: np.ndarray) -> float:
    """Root mean square of the difference from the mirror image."""
    return float(np.sqrt(np.mean((images - images[:, :, ::-1]) ** 2)))


def _spread(images: np.ndarray) -> float:
    """Root mean square of the difference from the mean picture: how various the seeds are."""
    return float(np.sqrt(np.mean((images - images.mean(axis=0)) ** 2)))


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

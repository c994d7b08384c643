"""Draws pictures of a prompt with a prior, to see what it knows.

    python -m experiments.sample --prompt "a red mushroom"

Writes one picture: a row for each view of the prompt, a column for each seed.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.prompts import PromptConfig, view_prompts
from dreamfusion_jax.priors.sampling import sample_texts
from dreamfusion_jax.runs.run import slug
from experiments.command_line import one_line_errors, say_devices


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
            "none" the bare prompt.
        seeds: Number of pictures of each view.
        seed: The first one.
        steps: Denoising steps.
        guidance_weight: omega of classifier-free guidance; 0 is none.
        output: The PNG file; in outputs/samples/ if not given.
    """

    prompt: str = "a red mushroom"
    negative_prompt: str = ""
    prior: Literal["toybox", "stable-diffusion", "deepfloyd"] = "toybox"
    weights: str | None = None
    lora: tuple[str, ...] = ()
    prediction_type: FilePrediction | None = None
    tokenizer: str | None = None
    views: Literal["nearest", "octants", "none"] = "nearest"
    seeds: int = 6
    seed: int = 0
    steps: int = 50
    guidance_weight: float = 3.0
    output: Path | None = None


def draw(arguments: Arguments) -> Path:
    """Draws the grid and returns its file.

    Raises:
        ValueError: The prior cannot read the prompt, or a number makes no sense.
        FileNotFoundError: No weights in that folder.
    """
    if min(arguments.seeds, arguments.steps) < 1:
        raise ValueError("--seeds and --steps must be at least 1")
    prior, params = load_prior(
        arguments.prior,
        arguments.prompt,
        arguments.weights,
        loras=arguments.lora,
        prediction_type=arguments.prediction_type,
        tokenizer=arguments.tokenizer,
    )
    config = PromptConfig(views=arguments.views)
    texts = [arguments.prompt]
    if arguments.views != "none":
        texts = list(view_prompts(arguments.prompt, config))
    columns = [
        sample_texts(
            jax.random.key(arguments.seed + column),
            prior,
            params,
            texts,
            negative=arguments.negative_prompt,
            steps=arguments.steps,
            guidance_weight=arguments.guidance_weight,
        )
        for column in range(arguments.seeds)
    ]
    path = arguments.output or Path("outputs/samples") / f"{slug(arguments.prompt)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, contact_sheet(enlarge(jnp.stack(columns, axis=1)), texts))
    return path


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    with one_line_errors():
        say_devices()
        print(draw(arguments))


if __name__ == "__main__":
    main()

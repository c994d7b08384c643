"""The priors that score distillation can follow, by name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors.oracle import OraclePrior
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.toybox.architecture import SCHEDULER
from dreamfusion_jax.toybox.captions import Vocabulary

PriorName = Literal["toybox", "oracle", "stable-diffusion", "deepfloyd"]


def made_for_one_prompt(name: PriorName) -> bool:
    """Whether a prior is loaded for a prompt, and serves no other."""
    return name == "oracle"


def load_prior(
    name: PriorName,
    prompt: str,
    weights: str | None = None,
    *,
    latent: bool = False,
    image_size: int | None = None,
    loras: Sequence[str] = (),
    prediction_type: FilePrediction | None = None,
    tokenizer: str | None = None,
) -> tuple[Prior, PriorParams]:
    """The named prior and its parameters.

    Args:
        name: "toybox" is the embedded diffusion model; "oracle" draws the true picture of
            the toybox object that the prompt names, for judging everything but the prior.
            "stable-diffusion" and "deepfloyd" are the pretrained models.
        prompt: What the run makes.
        weights: Folder of the weights or, for pretrained models, a repository on the hub; of
            Stable Diffusion also a single .safetensors file; None for the usual ones.
        latent: Whether the scene is one of latents, which only Stable Diffusion has.
        image_size: Height and width of the renderings, which Stable Diffusion alone leaves
            open, pixels; None for the prior's own.
        loras: Files of LoRAs, FILE[:SCALE], that are merged into Stable Diffusion.
        prediction_type: What the UNet of a single file predicts, where the file does not tell.
        tokenizer: Folder or repository of the tokenizer of a single file; None for the usual one.

    Raises:
        UnknownWordsError: The prior cannot read the prompt.
        WeightsError: The weights cannot be had or read.
        FileNotFoundError: No toybox prior in that folder.
        ValueError: A latent scene, a size, LoRAs or what a single file does not tell, for a
            prior that takes no such thing.
    """
    if latent and name != "stable-diffusion":
        raise ValueError(f"a latent scene needs the prior stable-diffusion, not {name}")
    if image_size is not None and (latent or name != "stable-diffusion"):
        raise ValueError(f"image_size is for pixels and the prior stable-diffusion, not {name}")
    told = {"loras": loras, "prediction_type": prediction_type, "tokenizer": tokenizer}
    for setting, value in told.items():
        if value and name != "stable-diffusion":
            raise ValueError(f"{setting} is for the prior stable-diffusion, not {name}")
    match name:
        # Only the prior that is asked for is imported: their tokenizers and the hub take a second.
        case "stable-diffusion":
            from dreamfusion_jax.diffusion.checkpoints.lora import Lora, Merged
            from dreamfusion_jax.priors import stable_diffusion

            checkpoint = stable_diffusion.open_checkpoint(
                weights or stable_diffusion.DEFAULT_REPO,
                prediction_type=prediction_type,
                tokenizer=tokenizer,
            )
            if loras:
                checkpoint = Merged(checkpoint, [Lora.parse(lora) for lora in loras])
            prior, params = stable_diffusion.load(checkpoint, latent=latent)
            size = image_size or prior.image_size
            return dataclasses.replace(prior, image_size=size), params
        case "deepfloyd":
            from dreamfusion_jax.priors import deepfloyd

            return deepfloyd.load(weights or deepfloyd.DEFAULT_REPO)
        case "oracle":
            scene = Vocabulary().scene(prompt)
            return OraclePrior(NoiseSchedule.from_config(SCHEDULER), scene=scene), None
        case "toybox":
            from dreamfusion_jax.priors import toybox

            prior, params = toybox.load(Path(weights) if weights else toybox.SHIPPED)
            prior.vocabulary.scene(prompt)
            return prior, params

"""The priors that score distillation can follow, by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.oracle import LatentOraclePrior, OraclePrior
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.toybox.architecture import SCHEDULER
from dreamfusion_jax.toybox.captions import Vocabulary

PriorName = Literal["toybox", "oracle", "stable-diffusion", "deepfloyd", "mvdream"]


USUAL_GUIDANCE: dict[PriorName, float] = {
    "toybox": 3.0,
    "oracle": 0.0,
    "stable-diffusion": 6.5,
    "deepfloyd": 6.0,
    "mvdream": 6.5,
}
"""omega that pictures in two dimensions are usually drawn with; users know 1 + omega as scale."""


def made_for_one_prompt(name: PriorName) -> bool:
    """Whether a prior is loaded for a prompt, and serves no other."""
    return name == "oracle"


def load_prior(
    name: PriorName, prompt: str, weights: str | None = None, **told: Any
) -> tuple[Prior, PriorParams]:
    """The named prior and its parameters; see `open_prior`."""
    opened = open_prior(name, prompt, weights, **told)
    return opened.prior, opened.read(told.get("say") or (lambda phase: None))


def open_prior(
    name: PriorName,
    prompt: str,
    weights: str | None = None,
    *,
    latent: bool = False,
    image_size: int | None = None,
    loras: Sequence[str] = (),
    prediction_type: FilePrediction | None = None,
    tokenizer: str | None = None,
    say: Say | None = None,
) -> OpenedPrior:
    """The named prior; of a pretrained one, only the configuration is read.

    Args:
        name: "toybox" is the embedded diffusion model; "oracle" draws the true picture of
            the toybox object that the prompt names, for judging everything but the prior.
            "stable-diffusion", "deepfloyd" and "mvdream" are the pretrained models.
        prompt: What the run makes.
        weights: Folder of the weights or, for pretrained models, a repository on the hub; of
            Stable Diffusion also a single .safetensors file; None for the usual ones.
        latent: Whether the scene is one of latents, which only Stable Diffusion has, and an
            oracle of its own.
        image_size: Height and width of the renderings, which Stable Diffusion alone leaves
            open, pixels; None for the prior's own.
        loras: Files of LoRAs, FILE[:SCALE], that are merged into Stable Diffusion.
        prediction_type: What the UNet of a single file predicts, where the file does not tell.
        tokenizer: Folder or repository of the tokenizer of a single file; None for the usual one.
        say: Is told when texts are encoded with a pretrained model.

    Raises:
        UnknownWordsError: The prior cannot read the prompt.
        WeightsError: The weights cannot be had or read.
        FileNotFoundError: No toybox prior in that folder.
        ValueError: A latent scene, a size, LoRAs or what a single file does not tell, for a
            prior that takes no such thing.
    """
    if latent and name not in ("stable-diffusion", "oracle"):
        raise ValueError(f"a latent scene needs the prior stable-diffusion or oracle, not {name}")
    if image_size is not None and (latent or name not in ("stable-diffusion", "mvdream")):
        raise ValueError(
            f"image_size is for pixels and the priors stable-diffusion and mvdream, not {name}"
        )
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
            return stable_diffusion.open_prior(
                checkpoint, latent=latent, image_size=image_size, say=say
            )
        case "deepfloyd":
            from dreamfusion_jax.priors import deepfloyd

            return deepfloyd.open_prior(weights or deepfloyd.DEFAULT_REPO, say=say)
        case "mvdream":
            from dreamfusion_jax.priors import mvdream

            return mvdream.open_prior(
                weights or mvdream.DEFAULT_REPO, image_size=image_size, say=say
            )
        case "oracle":
            scene = Vocabulary().scene(prompt)
            kind = LatentOraclePrior if latent else OraclePrior
            oracle = kind(NoiseSchedule.from_config(SCHEDULER), scene=scene)
            return OpenedPrior.whole(oracle, None)
        case "toybox":
            from dreamfusion_jax.priors import toybox

            prior, params = toybox.load(Path(weights) if weights else toybox.SHIPPED)
            prior.vocabulary.scene(prompt)
            return OpenedPrior.whole(prior, params)

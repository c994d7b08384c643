"""The priors that score distillation can follow, by name."""

from pathlib import Path
from typing import Literal

from dreamfusion_jax.prior import Prior, PriorParams
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.oracle import OraclePrior
from dreamfusion_jax.schedule import NoiseSchedule
from dreamfusion_jax.toybox.architecture import SCHEDULER
from dreamfusion_jax.toybox.captions import Vocabulary

PriorName = Literal["toybox", "oracle"]


def load_prior(name: PriorName, prompt: str, weights: Path | None) -> tuple[Prior, PriorParams]:
    """The named prior and its parameters.

    Args:
        name: "toybox" is the embedded diffusion model; "oracle" draws the true picture of
            the toybox object that the prompt names, for judging everything but the prior.
        prompt: What the run makes.
        weights: Folder of the weights; None for those that are installed with the package.

    Raises:
        UnknownWordsError: The prior cannot read the prompt.
        FileNotFoundError: No weights in that folder.
    """
    if name == "oracle":
        scene = Vocabulary().scene(prompt)
        return OraclePrior(NoiseSchedule.from_config(SCHEDULER), scene=scene), None
    prior, params = toybox.load(weights or toybox.SHIPPED)
    prior.vocabulary.scene(prompt)
    return prior, params

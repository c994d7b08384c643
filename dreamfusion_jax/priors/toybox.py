"""The embedded prior: a miniature text-to-image diffusion model of the toybox, shipped with us."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.checkpoints.weights import load_params
from dreamfusion_jax.diffusion.clip import ClipTextConfig, ClipTextModel
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.maths import from_symmetric, to_symmetric
from dreamfusion_jax.priors.prior import PriorParams
from dreamfusion_jax.priors.unet_prior import UNetPrior
from dreamfusion_jax.toybox.architecture import (
    OLDEST_BLOCK,
    depth_to_space,
    read_json,
    space_to_depth,
)
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.tokenizer import read_tokenizer

if TYPE_CHECKING:
    import tokenizers

SHIPPED = Path(__file__).parent.parent / "weights" / "toybox"
"""The folder of the prior that is installed with the package."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ToyboxPrior(UNetPrior):
    """See `dreamfusion_jax.priors.prior.Prior`. Made by `load`.

    Attributes:
        text_encoder: A small CLIP text tower.
        tokenizer: Words to ids, of one length.
        vocabulary: What the prior was trained on.
        image_size: Height and width of its pictures, pixels.
        block: Pixels per side of the squares that become channels.
    """

    text_encoder: ClipTextModel
    tokenizer: "tokenizers.Tokenizer"
    vocabulary: Vocabulary
    image_size: int
    block: int = OLDEST_BLOCK
    bounded: ClassVar[bool] = True

    def encode_text(self, params: PriorParams, prompts: Sequence[str]) -> Float[Array, "P N D"]:
        """Embeddings of prompts; the empty prompt is known.

        Raises:
            UnknownWordsError: A prompt has words that the prior was not trained on.
        """
        for prompt in prompts:
            if prompt:
                self.vocabulary.read(prompt)
        ids = [row.ids for row in self.tokenizer.encode_batch(list(prompts))]
        return _encode(self.text_encoder, params["text_encoder"], jnp.asarray(ids))

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W 3"]
    ) -> Float[Array, "V h w C"]:
        """Pixels scaled to [-1, 1], each square of pixels stacked into channels."""
        del params
        return space_to_depth(to_symmetric(image), self.block)

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V h w C"]
    ) -> Float[Array, "V H W 3"]:
        """The inverse of `encode_image`."""
        del params
        return from_symmetric(depth_to_space(z, self.block))


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder: ClipTextModel, params: PriorParams, ids: jax.Array) -> jax.Array:
    return encoder.apply({"params": params}, ids)[0]  # pyright: ignore[reportIndexIssue]


def load(folder: Path = SHIPPED) -> tuple[ToyboxPrior, PriorParams]:
    """Reads a prior's folder (diffusers layout, as `experiments.train_toybox` writes it).

    Args:
        folder: Where model_index.json lies.

    Returns:
        The prior, and its parameters {"unet", "text_encoder"}.

    Raises:
        FileNotFoundError: The folder is no toybox prior.
        WeightsError: Its weights do not fit its configuration.
    """
    if not (folder / "toybox.json").exists():
        raise FileNotFoundError(f"{folder} holds no toybox prior (no toybox.json)")
    known = read_json(folder / "toybox.json")
    block = known.pop("block", OLDEST_BLOCK)
    config = UNetConfig.from_json(read_json(folder / "unet/config.json"))
    unet = UNet2DConditionModel(config)
    text = ClipTextModel(ClipTextConfig.from_json(read_json(folder / "text_encoder/config.json")))
    prior = ToyboxPrior(
        unet=unet,
        text_encoder=text,
        tokenizer=read_tokenizer(folder / "tokenizer"),
        schedule=NoiseSchedule.from_config(read_json(folder / "scheduler/scheduler_config.json")),
        vocabulary=Vocabulary(**{key: tuple(names) for key, names in known.items()}),
        image_size=block * read_json(folder / "unet/config.json")["sample_size"],
        block=block,
    )
    params = {
        "unet": load_params(folder / "unet", unet),
        "text_encoder": load_params(folder / "text_encoder", text),
    }
    return prior, params

"""The embedded prior as configuration files: a miniature of Stable Diffusion.

The folder has diffusers' layout, so PyTorch diffusers and our own `diffusion.weights`
read the same files. In place of the VAE stands space-to-depth: an orthonormal, fixed
encoder that turns [H, W, 3] pixels into [H/b, W/b, 3 b^2], for squares of b x b pixels.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Float

from dreamfusion_jax.toybox.captions import Vocabulary

OLDEST_BLOCK = 2
"""Pixels per side of the squares of a prior whose folder does not say."""


def space_to_depth(
    image: Float[Array, "*batch H W C"], block: int = OLDEST_BLOCK
) -> Float[Array, "*batch h w D"]:
    """Moves each block x block square of pixels into the channels (row, column, channel order)."""
    *batch, height, width, channels = image.shape
    squares = image.reshape(*batch, height // block, block, width // block, block, channels)
    stacked = squares.swapaxes(-4, -3)
    return stacked.reshape(*batch, height // block, width // block, block * block * channels)


def depth_to_space(
    z: Float[Array, "*batch h w D"], block: int = OLDEST_BLOCK
) -> Float[Array, "*batch H W C"]:
    """The inverse of `space_to_depth`."""
    *batch, height, width, depth = z.shape
    channels = depth // block**2
    squares = z.reshape(*batch, height, width, block, block, channels).swapaxes(-4, -3)
    return squares.reshape(*batch, height * block, width * block, channels)


@dataclasses.dataclass(frozen=True)
class MiniatureConfig:
    """Sizes of the embedded prior.

    Attributes:
        image_size: Height and width of its pictures, pixels.
        block: Pixels per side of the squares that space-to-depth stacks into channels.
        channels: UNet widths from the finest level to the coarsest. Four levels on a
            16 x 16 grid end at 2 x 2, so that the whole picture is seen at high noise.
        attention: Which levels attend to the text; the middle always does.
        time_width: Width of the embedded time; four times the first of `channels` if None.
        text_width: Width of the text states.
        text_layers: Depth of the text encoder.
    """

    image_size: int = 32
    block: int = OLDEST_BLOCK
    channels: tuple[int, ...] = (64, 128, 160, 160)
    attention: tuple[bool, ...] = (False, False, True, False)
    time_width: int | None = None
    text_width: int = 128
    text_layers: int = 2

    def unet(self) -> dict[str, Any]:
        """Contents of unet/config.json (diffusers UNet2DConditionModel).

        The text reaches the UNet twice: by cross-attention, and pooled into the time
        embedding (`addition_embed_type`), which scales every residual block. A view name
        concerns the whole picture; by attention alone it is not learned.
        """
        cross = {True: "CrossAttn", False: ""}
        time = {} if self.time_width is None else {"time_embedding_dim": self.time_width}
        return {
            "_class_name": "UNet2DConditionModel",
            "sample_size": self.image_size // self.block,
            "in_channels": 3 * self.block**2,
            "out_channels": 3 * self.block**2,
            "block_out_channels": list(self.channels),
            "layers_per_block": 1,
            "down_block_types": [f"{cross[a]}DownBlock2D" for a in self.attention],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": [f"{cross[a]}UpBlock2D" for a in reversed(self.attention)],
            "attention_head_dim": 4,
            "cross_attention_dim": self.text_width,
            "norm_num_groups": 16,
            "use_linear_projection": True,
            "resnet_time_scale_shift": "scale_shift",
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 4,
            "encoder_hid_dim": self.text_width,
            **time,
        }

    def text_encoder(self, vocabulary_size: int, max_length: int) -> dict[str, Any]:
        """Contents of text_encoder/config.json (transformers CLIPTextModel)."""
        return {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": vocabulary_size,
            "hidden_size": self.text_width,
            "intermediate_size": 4 * self.text_width,
            "projection_dim": self.text_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": 4,
            "max_position_embeddings": max_length,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }


SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
}
"""Contents of scheduler/scheduler_config.json; the miniature predicts the clean image."""


def write_configs(folder: Path, config: MiniatureConfig, vocabulary: Vocabulary, tokenizer) -> None:
    """Writes every file of the prior's folder but the weights.

    Args:
        folder: Made if absent.
        config: Sizes.
        vocabulary: What the prior is trained on; kept in toybox.json, as is the block.
        tokenizer: Saved to tokenizer/.
    """
    files = {
        "model_index.json": {
            "_class_name": "ToyboxPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
        "unet/config.json": config.unet(),
        "text_encoder/config.json": config.text_encoder(len(tokenizer), tokenizer.model_max_length),
        "scheduler/scheduler_config.json": SCHEDULER,
        "toybox.json": {"block": config.block, **dataclasses.asdict(vocabulary)},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save_pretrained(folder / "tokenizer")


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a JSON file."""
    return json.loads(path.read_text())


def tokenize(tokenizer, texts: list[str]) -> jax.Array:
    """Token ids [len(texts), N], padded to the tokenizer's full length."""
    import jax.numpy as jnp

    length = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=length).input_ids
    return jnp.asarray(ids)

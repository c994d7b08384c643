"""CLIP's transformer tower and the text encoder built on it (2103.00020)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dreamfusion_jax.diffusion.attention import attend
from dreamfusion_jax.diffusion.layers import ACTIVATIONS, Dtype, Embedding, LayerNorm
from dreamfusion_jax.diffusion.options import check_choices


def quick_gelu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Approximates gelu by x sigmoid(1.702 x), as OpenAI's CLIP was trained."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": ACTIVATIONS["gelu"]}
_CHOICES = {"hidden_act": tuple(_ACTIVATIONS)}

# What transformers assumes where a config.json is silent.
_TEXT_DEFAULTS = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """A stack of transformer layers, for text or for images."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    act: str
    eps: float
    causal: bool

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, causal: bool) -> "TowerConfig":
        """Reads the transformer of a text or vision configuration.

        Raises:
            ValueError: the activation is not supported.
        """
        check_choices("CLIP", values, _CHOICES)
        return cls(
            width=values["hidden_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            mlp_width=values["intermediate_size"],
            act=values["hidden_act"],
            eps=values["layer_norm_eps"],
            causal=causal,
        )


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """A text encoder: its tower, vocabulary, longest text, and which id ends a text."""

    tower: TowerConfig
    vocab_size: int
    max_length: int
    eos_token_id: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ClipTextConfig":
        """Reads the dictionary of a text_encoder/config.json.

        Raises:
            ValueError: it is not a CLIP text encoder's, or its activation is not supported.
        """
        check_choices("CLIP", values, {"model_type": ("clip_text_model",)})
        values = _TEXT_DEFAULTS | dict(values)
        return cls(
            tower=TowerConfig.from_json(values, causal=True),
            vocab_size=values["vocab_size"],
            max_length=values["max_position_embeddings"],
            eos_token_id=values["eos_token_id"],
        )


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
    """An image encoder: its tower and how it cuts an image into patches, in pixels."""

    tower: TowerConfig
    image_size: int
    patch_size: int
    channels: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ClipVisionConfig":
        """Reads the `vision_config` of a CLIP config.json.

        Raises:
            ValueError: it is not a CLIP image encoder's, or its activation is not supported.
        """
        check_choices("CLIP", values, {"model_type": ("clip_vision_model",)})
        values = _VISION_DEFAULTS | dict(values)
        return cls(
            tower=TowerConfig.from_json(values, causal=False),
            image_size=values["image_size"],
            patch_size=values["patch_size"],
            channels=values["num_channels"],
        )


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """The two encoders and the width of the space in which they meet."""

    text: ClipTextConfig
    vision: ClipVisionConfig
    projection_dim: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ClipConfig":
        """Reads the dictionary of a CLIP config.json.

        Raises:
            ValueError: it is not a CLIP model's, or an activation is not supported.
        """
        check_choices("CLIP", {"model_type": None, **values}, {"model_type": ("clip",)})
        return cls(
            text=ClipTextConfig.from_json(values.get("text_config") or {}),
            vision=ClipVisionConfig.from_json(values.get("vision_config") or {}),
            projection_dim=values.get("projection_dim", 512),
        )


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each applied to the normalized input and added."""

    config: TowerConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """One transformer layer."""
        config = self.config
        y = LayerNorm(config.eps, self.dtype, name="layer_norm1")(x)
        q, k, v = (self._dense(config.width, f"self_attn.{name}_proj")(y) for name in "qkv")
        y = attend(q, k, v, heads=config.heads, causal=config.causal)
        x = x + self._dense(config.width, "self_attn.out_proj")(y)
        y = LayerNorm(config.eps, self.dtype, name="layer_norm2")(x)
        y = _ACTIVATIONS[config.act](self._dense(config.mlp_width, "mlp.fc1")(y))
        return x + self._dense(config.width, "mlp.fc2")(y)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, name=name)


class TextTower(nn.Module):
    """Token and position embeddings, the layers, the final norm."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B N"]) -> tuple[Float[Array, "B N D"], Float[Array, "B D"]]:
        """Hidden states after the final norm: all of them, and the one at the end of text.

        Raises:
            ValueError: the text is longer than the model's longest.
        """
        config, tower = self.config, self.config.tower
        if ids.shape[1] > config.max_length:
            raise ValueError(
                f"the text has {ids.shape[1]} tokens; the model takes {config.max_length}"
            )
        x = _embed(config.vocab_size, tower.width, self.dtype, "token_embedding")(ids)
        positions = _embed(config.max_length, tower.width, self.dtype, "position_embedding")
        x = x + positions.first(ids.shape[1])
        for i in range(tower.layers):
            x = EncoderLayer(tower, self.dtype, name=f"encoder.layers.{i}")(x)
        x = LayerNorm(tower.eps, self.dtype, name="final_layer_norm")(x)
        end = end_of_text(ids, config.eos_token_id)
        return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


class VisionTower(nn.Module):
    """Patch, class and position embeddings, the layers, the norm of the class token."""

    config: ClipVisionConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Encodes images to one vector each.

        Raises:
            ValueError: the image is not of the model's size.
        """
        config, tower = self.config, self.config.tower
        if pixels.shape[1:3] != (config.image_size, config.image_size):
            size = "{} x {}".format(*pixels.shape[1:3])
            raise ValueError(f"the image is {size}; the model takes {config.image_size}")
        patch = (config.patch_size, config.patch_size)
        name = "embeddings.patch_embedding"
        x = nn.Conv(tower.width, patch, patch, use_bias=False, dtype=self.dtype, name=name)(pixels)
        x = x.reshape(x.shape[0], -1, tower.width)
        initializer = nn.initializers.normal(tower.width**-0.5)
        first = self.param("embeddings.class_embedding", initializer, (tower.width,))
        first = jnp.broadcast_to(first.astype(self.dtype), (x.shape[0], 1, tower.width))
        x = jnp.concatenate([first, x], axis=1)
        count = x.shape[1]
        positions = _embed(count, tower.width, self.dtype, "position_embedding")
        x = x + positions.first(count)
        # The original's spelling.
        x = LayerNorm(tower.eps, self.dtype, name="pre_layrnorm")(x)
        for i in range(tower.layers):
            x = EncoderLayer(tower, self.dtype, name=f"encoder.layers.{i}")(x)
        return LayerNorm(tower.eps, self.dtype, name="post_layernorm")(x[:, 0])


def _embed(size: int, width: int, dtype: Dtype, name: str) -> Embedding:
    return Embedding(size, width, dtype, name=f"embeddings.{name}")


def end_of_text(ids: Int[Array, "B N"], eos_token_id: int) -> Int[Array, "B"]:
    """Position of the end-of-text token.

    Configurations that say 2 are the early ones whose value is wrong: there the end of
    text is the largest id of the vocabulary. Otherwise it is the first match.
    """
    if eos_token_id == 2:
        return jnp.argmax(ids, axis=1)
    return jnp.argmax(ids == eos_token_id, axis=1)


class ClipTextModel(nn.Module):
    """transformers' CLIPTextModel: ids to (last hidden state, its value at the end of text)."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B N"]) -> tuple[Float[Array, "B N D"], Float[Array, "B D"]]:
        """Encodes token ids, at most `config.max_length` a text."""
        return TextTower(self.config, self.dtype, name="text_model")(ids)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest inputs that the model takes."""
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32),)

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor: with the prefix `text_model.`.

        Checkpoints come with and without it, and with and without a `position_ids` constant.
        """
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        return None if name.endswith("position_ids") else name


class ClipModel(nn.Module):
    """transformers' CLIPModel: texts and images to vectors that meet in one space.

    The vectors are not normalized; their cosine is the similarity.
    """

    config: ClipConfig
    dtype: Dtype = jnp.float32

    def setup(self):
        """Creates the parts, named as in a checkpoint."""
        self.text_model = TextTower(self.config.text, self.dtype)
        self.vision_model = VisionTower(self.config.vision, self.dtype)
        width = self.config.projection_dim
        self.text_projection = nn.Dense(width, use_bias=False, dtype=self.dtype)
        self.visual_projection = nn.Dense(width, use_bias=False, dtype=self.dtype)

    def encode_text(self, ids: Int[Array, "B N"]) -> Float[Array, "B P"]:
        """Vectors of texts, from their token ids."""
        return self.text_projection(self.text_model(ids)[1])

    def encode_image(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B P"]:
        """Vectors of images, normalized as the preprocessor's configuration says."""
        return self.visual_projection(self.vision_model(pixels))

    def __call__(
        self, ids: Int[Array, "B N"], pixels: Float[Array, "B2 H W C"]
    ) -> tuple[Float[Array, "B P"], Float[Array, "B2 P"]]:
        """Encodes texts and images."""
        return self.encode_text(ids), self.encode_image(pixels)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest inputs that the model takes."""
        vision = self.config.vision
        pixels = (1, vision.image_size, vision.image_size, vision.channels)
        return (
            jax.ShapeDtypeStruct((1, 1), jnp.int32),
            jax.ShapeDtypeStruct(pixels, jnp.float32),
        )

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor; constants and the temperature go."""
        return None if name.endswith(("position_ids", "logit_scale")) else name

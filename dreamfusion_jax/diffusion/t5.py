"""The encoder of T5 v1.1 (1910.10683, 2002.05202), DeepFloyd IF's text encoder."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dreamfusion_jax.diffusion.attention import attend
from dreamfusion_jax.diffusion.layers import Dtype, RMSNorm
from dreamfusion_jax.diffusion.options import check_choices

_CHOICES = {"feed_forward_proj": ("gated-gelu",), "model_type": ("t5",)}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The values of a T5 `config.json` that its encoder needs; names are transformers'."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "T5Config":
        """Reads the dictionary of a config.json.

        Raises:
            ValueError: a value is missing or not supported.
        """
        check_choices("T5", {"feed_forward_proj": "relu", **values}, _CHOICES)
        fields = dataclasses.fields(cls)
        missing = [
            f.name for f in fields if f.name not in values and f.default is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"T5 config: {', '.join(missing)} missing")
        return cls(**{f.name: values[f.name] for f in fields if f.name in values})


class T5EncoderModel(nn.Module):
    """transformers' T5EncoderModel: ids and their mask to the last hidden state."""

    config: T5Config
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        """Encodes token ids; `mask` is true for tokens, false for padding."""
        config = self.config
        x = nn.Embed(config.vocab_size, config.d_model, dtype=self.dtype, name="shared")(ids)
        bias = self._position_bias(ids.shape[1])
        for i in range(config.num_layers):
            x = Layer(config, self.dtype, name=f"encoder.block.{i}")(x, mask, bias)
        norm = RMSNorm(config.layer_norm_epsilon, self.dtype, name="encoder.final_layer_norm")
        return norm(x)

    def _position_bias(self, length: int) -> Float[Array, "1 heads N N"]:
        """One learned number for each head and bucket of distances, shared by all layers."""
        config = self.config
        positions = np.arange(length)
        buckets = relative_position_bucket(
            positions[None, :] - positions[:, None],
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
        count = config.relative_attention_num_buckets
        bias = nn.Embed(count, config.num_heads, dtype=jnp.float32, name=name)(jnp.array(buckets))
        return bias.transpose(2, 0, 1)[None]

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest inputs that the model takes."""
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), jnp.bool_))

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor; copies and the decoder are not needed."""
        return name if name.startswith(("shared.", "encoder.block.", "encoder.final_")) else None


class Layer(nn.Module):
    """Self-attention and a gated MLP, each applied to the normalized input and added."""

    config: T5Config
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B N"],
        bias: Float[Array, "1 heads N N"],
    ) -> Float[Array, "B N D"]:
        """One transformer layer."""
        y = RMSNorm(self.config.layer_norm_epsilon, self.dtype, name="layer.0.layer_norm")(x)
        x = x + self._attention(y, mask, bias)
        y = RMSNorm(self.config.layer_norm_epsilon, self.dtype, name="layer.1.layer_norm")(x)
        return x + self._feed_forward(y)

    def _attention(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B N"],
        bias: Float[Array, "1 heads N N"],
    ) -> Float[Array, "B N D"]:
        config, at = self.config, "layer.0.SelfAttention"
        inner = config.num_heads * config.d_kv
        q, k, v = (self._dense(inner, f"{at}.{name}")(x) for name in "qkv")
        # T5 leaves the logits unscaled: its initialization makes up for the factor.
        y = attend(q, k, v, heads=config.num_heads, mask=mask, bias=bias, scale=1.0)
        return self._dense(config.d_model, f"{at}.o")(y)

    def _feed_forward(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        config, at = self.config, "layer.1.DenseReluDense"
        gate = jax.nn.gelu(self._dense(config.d_ff, f"{at}.wi_0")(x), approximate=True)
        value = self._dense(config.d_ff, f"{at}.wi_1")(x)
        return self._dense(config.d_model, f"{at}.wo")(gate * value)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)


def relative_position_bucket(
    offset: Int[np.ndarray, "*shape"], buckets: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """Bucket of a key's distance from a query (1910.10683, section 2.1).

    Half of the buckets are for keys that come after. Of each half, the first half holds one
    distance each; the rest grow logarithmically up to `max_distance` and beyond.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # In float32, as in the original: on a bucket's border the rounding decides.
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    growth = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    large = np.minimum(exact + growth.astype(offset.dtype), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, large)

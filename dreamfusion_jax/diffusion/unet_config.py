"""What a diffusers `unet/config.json` says, checked, in the form that the blocks read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreamfusion_jax.diffusion.layers import ACTIVATIONS
from dreamfusion_jax.diffusion.options import check_choices, check_known, unsupported

DOWN_BLOCKS = {
    "DownBlock2D": ("none", "conv"),
    "CrossAttnDownBlock2D": ("transformer", "conv"),
    "ResnetDownsampleBlock2D": ("none", "resnet"),
    "SimpleCrossAttnDownBlock2D": ("added_kv", "resnet"),
}
"""Down block type: (kind of attention, how it changes resolution)."""

UP_BLOCKS = {
    "UpBlock2D": ("none", "conv"),
    "CrossAttnUpBlock2D": ("transformer", "conv"),
    "ResnetUpsampleBlock2D": ("none", "resnet"),
    "SimpleCrossAttnUpBlock2D": ("added_kv", "resnet"),
}
"""Up block type: (kind of attention, how it changes resolution)."""

MID_BLOCKS = {
    "UNetMidBlock2DCrossAttn": "transformer",
    "UNetMidBlock2DSimpleCrossAttn": "added_kv",
}
"""Mid block type: kind of attention."""

_CHOICES: dict[str, tuple[Any, ...]] = {
    "act_fn": tuple(ACTIVATIONS),
    "addition_embed_type": (None, "text"),
    "cross_attention_norm": (None, "group_norm"),
    "downsample_padding": (0, 1),
    "encoder_hid_dim_type": (None, "text_proj"),
    "mid_block_type": tuple(MID_BLOCKS),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    # Switches of diffusers that no model served here turns on.
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "dropout": (0,),
    "dual_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}

_PER_LEVEL = ("attention_head_dim", "layers_per_block", "transformer_layers_per_block")


@dataclasses.dataclass(frozen=True)
class ResnetConfig:
    """How every residual block of a model is made."""

    groups: int
    eps: float
    act: str
    scale_shift: bool = False
    skip_time_act: bool = False
    output_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """One down, mid or up block: its residual blocks, its attention and its resampling.

    `attention` is "none", "transformer" (`depth` layers, as in SD) or "added_kv" (as in IF).
    `resample` is "none", "conv" or "resnet" (a residual block does it). The self-attention of
    transformers is of so many `views` together.
    """

    resnet: ResnetConfig
    channels: int
    layers: int
    attention: str
    heads: int
    depth: int
    linear_projection: bool
    norm_text: bool
    resample: str
    downsample_padding: int
    views: int


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The values of a `unet/config.json`; names and defaults are those of diffusers.

    Per-level values are tuples with one entry a level. `attention_head_dim` is, as in
    diffusers, the number of heads where a block holds transformers, and the width of a head
    in the SimpleCrossAttn blocks.

    The last two are not diffusers': MVDream has them, see `multi_view`.

    Attributes:
        camera_dim: Numbers that describe a view's camera; None for a model that is told of none.
        views: How many views, neighbours in the batch, are denoised in sight of each other.
    """

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int | float = 0
    down_block_types: tuple[str, ...] = (*3 * ("CrossAttnDownBlock2D",), "DownBlock2D")
    mid_block_type: str = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *3 * ("CrossAttnUpBlock2D",))
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    downsample_padding: int = 1
    mid_block_scale_factor: int | float = 1.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    attention_head_dim: tuple[int, ...] = (8, 8, 8, 8)
    use_linear_projection: bool = False
    # Read but without effect: products accumulate and softmax runs in float32 anyway.
    upcast_attention: bool = False
    time_embedding_dim: int | None = None
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64
    resnet_time_scale_shift: str = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: int | float = 1.0
    cross_attention_norm: str | None = None
    camera_dim: int | None = None
    views: int = 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "UNetConfig":
        """Reads the dictionary of a config.json.

        Raises:
            ValueError: an option or value is not supported; it is named, with what is.
        """
        values = {k: v for k, v in values.items() if not k.startswith("_")}
        ours = ("camera_dim", "views")
        fields = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in ours}
        check_known("unet", values, {*fields, *_CHOICES})
        check_choices("unet", values, _CHOICES)
        merged = {k: values.get(k, default) for k, default in fields.items()}
        _check_integers(merged)
        levels = len(merged["block_out_channels"])
        for key in ("block_out_channels", "down_block_types", "up_block_types", *_PER_LEVEL):
            merged[key] = _per_level(key, merged[key], levels, given=key in values)
        _check_blocks(merged)
        if merged["encoder_hid_dim"] is not None:
            merged["encoder_hid_dim_type"] = "text_proj"
        elif merged["encoder_hid_dim_type"] is not None:
            raise ValueError("unet config: encoder_hid_dim_type needs encoder_hid_dim")
        return cls(**merged)

    @property
    def levels(self) -> int:
        """How many resolutions the UNet works at."""
        return len(self.block_out_channels)

    @property
    def text_dim(self) -> int:
        """Width of the text states that the model takes."""
        return self.encoder_hid_dim or self.cross_attention_dim

    def down_block(self, level: int) -> BlockConfig:
        """Down block of one level, 0 the finest; all but the last halve the resolution."""
        kind = DOWN_BLOCKS[self.down_block_types[level]]
        last = level == self.levels - 1
        return self._block(level, level, self.layers_per_block[level], *kind, last)

    def mid_block(self) -> BlockConfig:
        """The block at the coarsest resolution."""
        level = self.levels - 1
        attention = MID_BLOCKS[self.mid_block_type]
        resample = "resnet" if attention == "added_kv" else "conv"
        block = self._block(level, level, 1, attention, resample, last=True)
        resnet = dataclasses.replace(block.resnet, output_scale=float(self.mid_block_scale_factor))
        return dataclasses.replace(block, resnet=resnet)

    def up_block(self, index: int) -> BlockConfig:
        """Up block by index, 0 the coarsest; all but the last double the resolution."""
        kind = UP_BLOCKS[self.up_block_types[index]]
        level = self.levels - 1 - index
        # diffusers lists heads from the finest level, but head widths in the blocks' order.
        heads_at = index if kind[0] == "added_kv" else level
        layers = self.layers_per_block[level] + 1
        return self._block(level, heads_at, layers, *kind, last=level == 0)

    def _block(
        self, level: int, heads_at: int, layers: int, attention: str, resample: str, last: bool
    ) -> BlockConfig:
        channels, heads = self.block_out_channels[level], self.attention_head_dim[heads_at]
        return BlockConfig(
            resnet=self._resnet(resample),
            channels=channels,
            layers=layers,
            attention=attention,
            heads=channels // heads if attention == "added_kv" else heads,
            depth=self.transformer_layers_per_block[level],
            linear_projection=self.use_linear_projection,
            norm_text=self.cross_attention_norm is not None,
            resample="none" if last else resample,
            downsample_padding=self.downsample_padding,
            views=self.views,
        )

    def _resnet(self, resample: str) -> ResnetConfig:
        # Only the blocks that resample by residual blocks look at the last two options.
        by_resnet = resample == "resnet"
        return ResnetConfig(
            groups=self.norm_num_groups,
            eps=self.norm_eps,
            act=self.act_fn,
            scale_shift=self.resnet_time_scale_shift == "scale_shift",
            skip_time_act=by_resnet and self.resnet_skip_time_act,
            output_scale=float(self.resnet_out_scale_factor) if by_resnet else 1.0,
        )


def _check_integers(values: Mapping[str, Any]) -> None:
    for key in ("cross_attention_dim", "norm_num_groups"):
        if not isinstance(values[key], int):
            raise ValueError(
                f"unet config: {key} = {values[key]!r} is not supported; it must be one integer"
            )


def _per_level(key: str, value: Any, levels: int, given: bool) -> tuple:
    if isinstance(value, int):
        return (value,) * levels
    if not given and len(set(value)) == 1:
        return (value[0],) * levels
    if len(value) != levels or not all(isinstance(v, int | str) for v in value):
        raise ValueError(
            f"unet config: {key} = {value!r} is not supported; "
            f"it needs one plain value for each of the {levels} levels"
        )
    return tuple(value)


def _check_blocks(merged: Mapping[str, Any]) -> None:
    for key, supported in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        for name in merged[key]:
            if name not in supported:
                raise unsupported("unet", key, name, *supported)

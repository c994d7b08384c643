"""Presets with another field than their own."""

import dataclasses
from typing import Literal, get_args

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.rates import PartRates
from dreamfusion_jax.presets import COARSE_TO_FINE, RunConfig
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.schedules import Ramp

FieldName = Literal["grid", "hash", "mlp"]
"""The fields: the default's, Instant-NGP's, the paper's."""

_KINDS = (GridField, HashField, MlpField)


def field_name(config: RunConfig) -> FieldName:
    """Which field a configuration has."""
    names = dict(zip(_KINDS, get_args(FieldName), strict=True))
    return names[type(config.scene.field)]


def with_field(config: RunConfig, name: FieldName) -> RunConfig:
    """A preset with another field, and the optimizer and blur that this wants.

    Args:
        config: The preset.
        name: "mlp" is the paper's; "grid" and "hash" are fast ones, for which Shampoo's blocks
            are too large. A preset that has this field already stays as it is.
    """
    if field_name(config) == name:
        return config
    radius = config.scene.sampling.radius
    match name:
        case "grid":
            field, blur = GridField(radius=radius), Ramp(0.0, 0.0, 0.0)
            optimizer = AdamConfig(0.05, parts=PartRates(background=1 / 50))
        case "hash":
            field, blur = HashField(radius=radius), COARSE_TO_FINE
            optimizer = AdamConfig(0.01, parts=PartRates(background=1 / 10))
        case "mlp":
            field, blur = MlpField(), Ramp(1e-2, 1e-4, 1 / 2)
            optimizer = AdamConfig(1e-3, warm_up=1 / 12)
    scene = dataclasses.replace(config.scene, field=field)
    train = dataclasses.replace(config.train, variance=blur, optimizer=optimizer)
    return dataclasses.replace(config, scene=scene, train=train)

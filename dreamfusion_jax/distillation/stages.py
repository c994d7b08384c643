"""Stages of a run: renderings that grow as it goes on (Magic3D, 2211.10440, section 4)."""

import dataclasses
from collections.abc import Sequence

from dreamfusion_jax.distillation.train import Model, TrainConfig


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps with renderings of one size; each size is compiled once.

    Attributes:
        first: Steps that are done when it begins.
        model: Scene and prior, which is asked about renderings of this size.
    """

    first: int
    model: Model


def stages(model: Model, config: TrainConfig) -> tuple[Stage, ...]:
    """The stages of a run, the first with the model as it is.

    Raises:
        ValueError: The prior's renderings have one size only.
    """
    found = [Stage(0, model)]
    for moment, size in config.sizes:
        resized = dataclasses.replace(model, prior=model.prior.resized(size))
        found.append(Stage(round(moment * config.steps), resized))
    return tuple(found)


def stage_at(run: Sequence[Stage], step: int) -> Stage:
    """The stage that the next step after so many belongs to."""
    return [stage for stage in run if stage.first <= step][-1]

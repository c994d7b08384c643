"""What a training asks of a device, known before any weights are read."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dreamfusion_jax.devices import product_rate, require_memory
from dreamfusion_jax.distillation.stages import stages
from dreamfusion_jax.distillation.train import Model, TrainConfig, init_state, train_step
from dreamfusion_jax.flops import largest_product, product_flops
from dreamfusion_jax.kept import remembered
from dreamfusion_jax.priors.opened import OpenedPrior
from dreamfusion_jax.priors.prior import PriorParams
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.priors.sampling import sampling_flops
from dreamfusion_jax.pytree import tree_bytes

LONGEST = 12 * 3600.0
"""Seconds that a run may take without being asked for: over night."""

LESS_MEMORY = (
    "less is needed by smaller renderings (image_size), fewer views a step (train.views), or a "
    "scene of latents (the preset latent-sd)"
)
"""What to do where a step does not fit."""

# Below any device's: so much less than this takes no long time anywhere, and nothing is measured.
_SLOWEST = 1e9


class TooLongError(ValueError):
    """A run would take very long on the device at hand; the message is one line with the time."""


@dataclasses.dataclass(frozen=True)
class Demand:
    """Lower bounds of what a training takes.

    Attributes:
        flops: Of its matrix products and convolutions.
        size: Bytes of weights, scene and optimizer, and of the largest product of a step.
        dtype: What most of the prior's weights are multiplied in.
    """

    flops: float
    size: int
    dtype: jnp.dtype

    @property
    def seconds(self) -> float:
        """Least time on the default device, which is measured only where it could be long."""
        if self.flops / _SLOWEST < LONGEST:
            return 0.0
        return self.flops / product_rate(self.dtype)

    def check_memory(self) -> None:
        """Refuses what does not fit.

        Raises:
            OutOfMemoryError: The default device has not so much memory free.
        """
        require_memory(self.size, "a training step with its weights", LESS_MEMORY)

    def check_time(self) -> None:
        """Refuses what takes very long.

        Raises:
            TooLongError: It takes more than `LONGEST`.
        """
        seconds = self.seconds
        if seconds > LONGEST:
            place = jax.devices()[0].device_kind
            raise TooLongError(
                f"this run takes at least {duration(seconds)} on {place}, which multiplies at "
                f"{product_rate(self.dtype) / 1e9:,.0f} GFLOP/s: an accelerator, fewer steps or "
                "take_the_time"
            )


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} seconds"


def demand_of(model: Model, config: TrainConfig, prior_params: PriorParams, text: Text) -> Demand:
    """What a training asks for, counted in its traced step unless it is remembered.

    Args:
        model: Scene and prior.
        config: Settings.
        prior_params: Shapes of the prior's parameters.
        text: Shapes of the encoded prompts.
    """
    asked = (model, config, prior_params, text)
    return remembered("demand", asked, lambda: _count(*asked))


def _count(model: Model, config: TrainConfig, prior_params: PriorParams, text: Text) -> Demand:
    """`demand_of`, anew; the first call of the step need not repeat the trace."""
    state = jax.eval_shape(functools.partial(init_state, model, config, 0))
    run = stages(model, config)
    steps = [
        train_step.trace(state, prior_params, text, model=stage.model, config=config).jaxpr
        for stage in run
    ]
    ends = [*(stage.first for stage in run[1:]), config.steps]
    counts = [end - stage.first for stage, end in zip(run, ends, strict=True)]
    return Demand(
        flops=math.fsum(n * product_flops(step) for n, step in zip(counts, steps, strict=True)),
        # The gradient is as large as the scene.
        size=tree_bytes((state, prior_params, state.params)) + max(map(largest_product, steps)),
        dtype=_usual_dtype(prior_params),
    )


def demand_of_pictures(opened: OpenedPrior, texts: Sequence[str], steps: int, seeds: int) -> Demand:
    """What pictures of texts ask for, without their decoding.

    Args:
        opened: The prior.
        texts: What to draw.
        steps: Evaluations of the model for each.
        seeds: Pictures of each text.
    """
    flops = seeds * sampling_flops(opened, texts, steps)
    return Demand(flops, tree_bytes(opened.shapes), _usual_dtype(opened.shapes))


def _usual_dtype(params: PriorParams) -> jnp.dtype:
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)] or [jnp.dtype(jnp.float32)]
    return max(set(dtypes), key=dtypes.count)

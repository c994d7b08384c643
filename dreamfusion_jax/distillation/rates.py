"""Learning rates: their course over a run, and those of a scene's parts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, ScalarLike

from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_range


@dataclasses.dataclass(frozen=True)
class PartRates:
    """The learning rate of each part of a scene, as a multiple of the optimizer's.

    Attributes:
        field: Of density and albedo.
        proposals: Of the networks that say where to look along a ray.
        background: Of the environment map, which saturates at rates that a grid needs.

    Raises:
        SettingError: One of them is negative.
    """

    field: float = 1.0
    proposals: float = 1.0
    background: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "field", "proposals", "background")

    def scale(self, updates: dict[str, Any]) -> dict[str, Any]:
        """Updates of the parameters {"field", "proposals", "background"}, each times its rate."""
        rates = dataclasses.asdict(self)
        return {
            name: jax.tree.map(lambda update, rate=rates[name]: rate * update, part)
            for name, part in updates.items()
        }


@dataclasses.dataclass(frozen=True)
class RateConfig:
    """What the settings of all optimizers share; the defaults are the paper's (appendix A.2).

    The rate rises linearly from 1e-9 to 1e-4 in the first 3,000 of 15,000 steps, then decays
    as half a cosine to 1e-6.

    Attributes:
        learning_rate: At its highest.
        initial: Share of the highest learning rate at the first step, if there is a warm-up.
        final: Share of the highest learning rate that is left at the end.
        warm_up: When it is highest, a fraction of the run.
        parts: Multiples of the learning rate for the parts of a scene.

    Raises:
        SettingError: The rate is not positive, or a share or the fraction is not within [0, 1].
    """

    learning_rate: float = 1e-4
    initial: float = 1e-5
    final: float = 1e-2
    warm_up: float = 0.2
    parts: PartRates = PartRates()

    def __post_init__(self) -> None:
        check_range(self, POSITIVE, "learning_rate")
        check_range(self, SHARE, "initial", "final", "warm_up")

    def schedule(self, steps: int) -> optax.Schedule:
        """The learning rate as a function of the step of a run of so many steps."""
        peak = self.learning_rate
        warm_up = min(round(self.warm_up * steps), steps - 1)
        start = self.initial * peak if warm_up else peak
        course = optax.warmup_cosine_decay_schedule(start, peak, warm_up, steps, self.final * peak)

        def rate(step: ScalarLike) -> Float[Array, ""]:
            return jnp.asarray(course(jnp.asarray(step, jnp.float32)))

        return rate

"""Diffusion times at which a step asks the prior."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, ScalarLike

from dreamfusion_jax.checks import SHARE, Range, SettingError, check_range
from dreamfusion_jax.schedules import Ramp


@dataclasses.dataclass(frozen=True)
class TimeConfig:
    """t ~ U(low, high), as fractions of the noise schedule (DreamFusion, section 2.1).

    Attributes:
        low: Lower end.
        high: Upper end, as a function of the run's progress.
            Departure: the paper keeps 0.98; lowering it sharpens a small prior's objects.
        descent: Departure: over this first fraction of the run the lower end comes down from
            where the upper one begins (MVDream, 2308.16512); 0 has it at `low` throughout.

    Raises:
        SettingError: An end is not within [0, 1], or the upper one is below the lower one.
    """

    low: float = 0.02
    high: Ramp = Ramp(0.98, 0.98, 0.0)
    descent: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, SHARE, "low", "descent")
        wanted = Range(self.low, 1.0)
        if self.high.start not in wanted or self.high.end not in wanted:
            raise SettingError(self, "high", f"at least low, {self.low:g}, and at most 1")


FROM_MUCH_NOISE = TimeConfig(descent=3 / 5)
"""For a prior that has seen things anywhere in a picture: with little noise they grow where there
is something already, be it at the edge; much noise leaves only where they usually are."""


def sample_time(
    key: Key[Array, ""], num: int, step: ScalarLike, steps: int, config: TimeConfig
) -> Float[Array, "{num}"]:
    """T ~ U(low, high), one for each view.

    Args:
        key: Random key.
        num: Number of views.
        step: Of the run.
        steps: Length of the run.
        config: The distribution.
    """
    high = config.high(step, steps)
    low = Ramp(config.high.start, config.low, config.descent)(step, steps)
    # Both ends move: at the same rate, or the lower one faster.
    low = jnp.minimum(low, high)
    return low + (high - low) * jax.random.uniform(key, (num,))

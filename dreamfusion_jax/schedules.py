"""Settings that change as a run goes on, as functions of its progress.

Times are fractions of the run, so that a shorter or longer run has the same schedules.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from dreamfusion_jax.checks import FINITE, POSITIVE, SHARE, SettingError, check_range


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A value that goes from `start` to `end` between two moments of a run.

    Attributes:
        start: Value up to the moment `begin`.
        end: Value from the moment `until` on.
        until: When the ramp is over, a fraction of the run; 0 is `end` throughout.
        begin: When it begins, a fraction of the run. Equal to `until`, the value jumps there.
        course: "linear" adds as much in equal times, "geometric" multiplies by as much.

    Raises:
        SettingError: A value is not finite, or of a geometric course not positive; or a moment is
            not within the run or not in order.
    """

    start: float
    end: float
    until: float
    begin: float = 0.0
    course: Literal["linear", "geometric"] = "linear"

    def __post_init__(self) -> None:
        check_range(self, FINITE, "start", "end")
        check_range(self, SHARE, "until", "begin")
        if self.course == "geometric":
            check_range(self, POSITIVE, "start", "end")
        if self.begin > self.until:
            raise SettingError(self, "begin", f"at most until, {self.until:g}")

    def __call__(self, step: ScalarLike, steps: int) -> Float[Array, ""]:
        """The value at a step of a run of so many steps."""
        # In Python's floats, so that the moments are whole steps where they should be.
        begin, length = self.begin * steps, (self.until - self.begin) * steps
        since = jnp.asarray(step, jnp.float32) - begin
        over = (since >= 0.0).astype(jnp.float32)
        share = jnp.clip(since / length, 0.0, 1.0) if length > 0.0 else over
        if self.course == "geometric":
            return self.start * (self.end / self.start) ** share
        return self.start + (self.end - self.start) * share

    @functools.partial(jax.jit, static_argnames=("self", "steps"))
    def at_end(self, steps: int) -> Float[Array, ""]:
        """The value after the last of so many steps, found in one program."""
        return self(steps, steps)

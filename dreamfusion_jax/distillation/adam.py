"""Adam (1412.6980), the optimizer of the fast presets."""

import dataclasses

import optax

from dreamfusion_jax.checks import DECAY, POSITIVE, check_range
from dreamfusion_jax.distillation.rates import RateConfig


@dataclasses.dataclass(frozen=True)
class AdamConfig(RateConfig):
    """Settings of Adam.

    Attributes:
        learning_rate: At its highest.
        initial: Share of the highest learning rate at the first step, if there is a warm-up.
        final: Share of the highest learning rate that is left at the end.
        warm_up: When it is highest, a fraction of the run.
        parts: Multiples of the learning rate for the parts of a scene.
        b1: Decay of the mean.
        b2: Decay of the mean square.
        eps: Added to the root of the mean square.

    Raises:
        SettingError: A setting is out of its range.
    """

    learning_rate: float = 1e-2
    initial: float = 0.0
    final: float = 0.1
    warm_up: float = 1 / 30
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-15

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, DECAY, "b1", "b2")
        check_range(self, POSITIVE, "eps")


def adam(config: AdamConfig, steps: int) -> optax.GradientTransformation:
    """Adam for a run of so many steps."""
    return optax.adam(config.schedule(steps), config.b1, config.b2, config.eps)

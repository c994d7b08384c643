"""The optimizer of a run, from its settings."""

import jax
import optax

from dreamfusion_jax.distillation.adam import AdamConfig, adam
from dreamfusion_jax.distillation.shampoo import ShampooConfig, shampoo

OptimizerConfig = ShampooConfig | AdamConfig


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer of a run, with its learning rates for parameters as `SceneModel.init` gives.

    Args:
        config: Distributed Shampoo as in the paper, or Adam.
        steps: Length of the run.
    """
    if isinstance(config, ShampooConfig):
        optimizer = shampoo(config.schedule(steps), config)
    else:
        optimizer = adam(config, steps)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
            updates, state = optimizer.update(updates, state, params)
        # Both optimizers' updates are proportional to the rate, so it may be applied behind them.
        return config.parts.scale(updates), state  # pyright: ignore[reportArgumentType]

    return optax.GradientTransformation(optimizer.init, update)  # pyright: ignore

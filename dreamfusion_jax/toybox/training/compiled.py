"""The training step compiled before there are pictures, to time it on a device that is quiet."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.pictures import Paints
from dreamfusion_jax.toybox.tokenizer import MAX_LENGTH, build_tokenizer
from dreamfusion_jax.toybox.training.data import Settings
from dreamfusion_jax.toybox.training.model import State, init_state, make_networks, train_step

Step = Callable[..., tuple[State, jax.Array]]
"""`model.train_step` without its static arguments: (state, paints, ids, schedule, last=...)."""


class Trial:
    """Compiles the step, and takes some with random pictures, to measure them.

    Begin it on a quiet device: XLA chooses among kernels by timing them.

    Args:
        settings: Of the training.
        dtype: What its networks compute in.

    Attributes:
        step: The step, compiled.
    """

    def __init__(self, settings: Settings, dtype: Dtype) -> None:
        config = settings.optimization
        networks = make_networks(settings.model, build_tokenizer(), dtype)
        batch = jax.jit(functools.partial(_pictures, settings))(jax.random.key(config.seed))
        self._rest = (*batch, NoiseSchedule.from_config(architecture.SCHEDULER))
        self._last = np.int32(config.steps)
        self._state = init_state(networks, config)
        static = {"networks": networks, "config": config, "block": settings.model.block}
        lowered = train_step.lower(self._state, *self._rest, **static, last=self._last)
        self.step: Step = lowered.compile()
        self.take(1)  # The first one sets up what the others use.

    def take(self, count: int) -> float:
        """Takes some steps.

        Returns:
            Seconds for each.
        """
        began = time.perf_counter()
        for _ in range(count):
            self._state, _ = self.step(self._state, *self._rest, last=self._last)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / count


def _pictures(settings: Settings, key: jax.Array) -> tuple[Paints, jax.Array]:
    """Pictures and captions that say nothing, of the right shapes."""
    count, size = settings.optimization.batch_size, settings.model.image_size
    bits, colours, words = jax.random.split(key, 3)
    paints = Paints(
        layers=jax.random.bits(bits, (count, size, size, 6), jnp.uint8),
        main=jax.random.uniform(colours, (count, 3)),
        accent=jnp.zeros((count, 3)),
        backgrounds=jnp.ones((count, 2, 3)),
        edge=jnp.ones((count, 4)),
        **{name: jnp.zeros(count) for name in ("blur", "noise", "wash", "gain")},
        seed=jnp.zeros((), jnp.int32),
    )
    return paints, jax.random.randint(words, (count, MAX_LENGTH), 0, len(build_tokenizer()))

"""The training step compiled before there are pictures to learn from."""

import functools
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


def compiled_step(settings: Settings, dtype: Dtype) -> tuple[Step, Callable[[int], None]]:
    """Compiles the step.

    XLA times kernels against each other meanwhile: on a GPU that others use it may take slow ones.

    Args:
        settings: Of the training.
        dtype: What its networks compute in.

    Returns:
        The step; and a function that takes so many steps with random pictures, to measure it
        with. It begins with fresh weights, and goes on from there when it is called again.
    """
    config, block = settings.optimization, settings.model.block
    networks = make_networks(settings.model, build_tokenizer(), dtype)
    fresh = functools.partial(init_state, networks, config)
    batch = jax.jit(functools.partial(_pictures, settings))(jax.random.key(config.seed))
    schedule = NoiseSchedule.from_config(architecture.SCHEDULER)
    last = np.int32(config.steps)
    step = train_step.lower(
        *(jax.eval_shape(fresh), *batch, schedule),
        networks=networks,
        config=config,
        block=block,
        last=last,
    ).compile()

    state = None

    def tried(steps: int) -> None:
        nonlocal state
        state = fresh() if state is None else state
        for _ in range(steps):
            state, _ = step(state, *batch, schedule, last=last)
        jax.block_until_ready(state)

    return step, tried


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

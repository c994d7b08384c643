"""The training step compiled before there are pictures, in the way that runs fastest here."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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

Options = dict[str, str | int]

WAYS: dict[str, Options] = {
    "as usual": {},
    "no graphs": {"xla_gpu_enable_command_buffer": ""},
    "more in graphs": {
        "xla_gpu_enable_command_buffer": "+CONVOLUTION",
        "xla_gpu_graph_min_graph_size": 1,
    },
}
"""Options of XLA: how the thousands of small kernels of a step are handed to a GPU. By default
those that stand together are put into graphs, which are brought up to date at every step; that
can take longer than the kernels themselves."""


def fastest_step(
    settings: Settings, dtype: Dtype, ways: dict[str, Options] | None = None, repeats: int = 10
) -> tuple[Step, dict[str, float]]:
    """Compiles the step in several ways at once, and takes the one that runs fastest.

    Args:
        settings: Of the training.
        dtype: What its networks compute in.
        ways: Options of XLA by name; those for the device that is there if None.
        repeats: Steps that are timed, of random pictures.

    Returns:
        The step, and the seconds that each way takes.
    """
    if ways is None:
        ways = WAYS if jax.default_backend() == "gpu" else {"as usual": {}}
    config, block = settings.optimization, settings.model.block
    networks = make_networks(settings.model, build_tokenizer(), dtype)
    fresh = functools.partial(init_state, networks, config)
    key = jax.random.key(config.seed)
    paints, ids = jax.jit(functools.partial(_pictures, settings))(key)
    schedule = NoiseSchedule.from_config(architecture.SCHEDULER)
    last = np.int32(config.steps)
    lowered = train_step.lower(
        *(jax.eval_shape(fresh), paints, ids, schedule),
        networks=networks,
        config=config,
        block=block,
        last=last,
    )
    with ThreadPoolExecutor() as pool:
        compiled = dict(zip(ways, pool.map(lowered.compile, ways.values()), strict=True))
    seconds = {}
    for name, step in compiled.items():
        # The first one sets up what the others use.
        state, _ = jax.block_until_ready(step(fresh(), paints, ids, schedule, last=last))
        began = time.perf_counter()
        for _ in range(repeats):
            state, _ = step(state, paints, ids, schedule, last=last)
        jax.block_until_ready(state)
        seconds[name] = (time.perf_counter() - began) / repeats
    return compiled[min(seconds, key=lambda name: seconds[name])], seconds


def _pictures(settings: Settings, key: jax.Array) -> tuple[Paints, jax.Array]:
    """Pictures and captions that say nothing, of the right shapes."""
    count, size = settings.optimization.batch_size, settings.model.image_size
    bits, colours = jax.random.split(key)
    paints = Paints(
        layers=jax.random.bits(bits, (count, size, size, 6), jnp.uint8),
        main=jax.random.uniform(colours, (count, 3)),
        accent=jnp.zeros((count, 3)),
        backgrounds=jnp.ones((count, 2, 3)),
        edge=jnp.ones((count, 4)),
        **{name: jnp.zeros(count) for name in ("blur", "noise", "wash", "gain")},
        seed=jnp.zeros((), jnp.int32),
    )
    return paints, jnp.ones((count, MAX_LENGTH), jnp.int32)

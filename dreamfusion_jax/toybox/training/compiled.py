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
        "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION",
        "xla_gpu_graph_min_graph_size": 1,
    },
}
"""Options of XLA: how the thousands of small kernels of a step are handed to a GPU. By default
those that stand together are put into graphs, which are brought up to date at every step; that
can take longer than the kernels themselves."""


def fastest_step(
    settings: Settings,
    dtype: Dtype,
    ways: dict[str, Options] | None = None,
    repeats: int = 10,
    quiet: Callable[[], object] = lambda: None,
) -> tuple[Step, dict[str, float]]:
    """Compiles the step in several ways at once, and takes the one that runs fastest.

    Args:
        settings: Of the training.
        dtype: What its networks compute in.
        ways: Options of XLA by name; those for the device that is there if None.
        repeats: Steps that are timed, of random pictures.
        quiet: Called when all is compiled: waits until nothing else uses the device.

    Returns:
        The step, and the seconds that each way takes; those that do not compile or run here are
        left out.

    Raises:
        RuntimeError: None of them does.
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
        compiling = {name: pool.submit(lowered.compile, options) for name, options in ways.items()}
    quiet()
    steps, seconds, failed = {}, {}, {}
    for name, future in compiling.items():
        try:
            steps[name] = future.result()
            # The first step sets up what the others use.
            state, _ = jax.block_until_ready(steps[name](fresh(), paints, ids, schedule, last=last))
            began = time.perf_counter()
            for _ in range(repeats):
                state, _ = steps[name](state, paints, ids, schedule, last=last)
            jax.block_until_ready(state)
        except RuntimeError as error:
            failed[name] = f"{name}: {error}"
        else:
            seconds[name] = (time.perf_counter() - began) / repeats
    if not seconds:
        raise RuntimeError("the step cannot be compiled or run here: " + "; ".join(failed.values()))
    return steps[min(seconds, key=lambda name: seconds[name])], seconds


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

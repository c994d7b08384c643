"""The training step compiled before there are pictures, in the way that runs fastest here."""

import dataclasses
import functools
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.diffusion.layers import PRODUCTS_VARIABLE, Dtype
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.pictures import Paints
from dreamfusion_jax.toybox.tokenizer import MAX_LENGTH, build_tokenizer
from dreamfusion_jax.toybox.training.data import Settings
from dreamfusion_jax.toybox.training.environment import variable
from dreamfusion_jax.toybox.training.model import State, init_state, make_networks, train_step

Step = Callable[..., tuple[State, jax.Array]]
"""`model.train_step` without its static arguments: (state, paints, ids, schedule, last=...)."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to compile the step.

    Attributes:
        options: Of XLA.
        products: Which convolutions are products of matrices; see `layers.PRODUCTS_VARIABLE`.
        groups: Of a batch, whose gradients are found apart.
    """

    options: dict[str, str | bool] = dataclasses.field(default_factory=dict)
    products: str = "small"
    groups: int = 1


_GRAPHS: dict[str, str | bool] = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION",
    "xla_gpu_graph_min_graph_size": "1",
}

WAYS = {
    "as usual": Way(),
    "gradients as products, 32 groups": Way(products="gradients", groups=32),
    "the same, more in graphs": Way(_GRAPHS, "gradients", 32),
    "products, 32 groups": Way(products="all", groups=32),
}
"""How a GPU may be given the thousands of small kernels of a step, and its convolutions."""


def one_at_a_time(step: Step) -> Step:
    """The same step, beginning when the one before has ended.

    Its memory then lies where it lay before, and a CUDA graph of it need not be recorded anew.
    """

    def alone(state: State, *batch, **more) -> tuple[State, jax.Array]:
        return step(jax.block_until_ready(state), *batch, **more)

    return alone


class Trial:
    """Takes steps with random pictures, to measure them.

    Compile on a quiet device: XLA chooses among kernels by timing them.

    Args:
        settings: Of the training.
        dtype: What its networks compute in.
    """

    def __init__(self, settings: Settings, dtype: Dtype) -> None:
        config = settings.optimization
        networks = make_networks(settings.model, build_tokenizer(), dtype)
        batch = jax.jit(functools.partial(_pictures, settings))(jax.random.key(config.seed))
        self._rest = (*batch, NoiseSchedule.from_config(architecture.SCHEDULER))
        self._last = np.int32(config.steps)
        self._fresh = functools.partial(init_state, networks, config)
        self._state = self._fresh()
        self._static = {"networks": networks, "config": config, "block": settings.model.block}

    def _lowered(self, products: str, groups: int) -> jax.stages.Lowered:
        # The variable is read when a program is traced, and what was traced is remembered.
        jax.clear_caches()
        try:
            with variable(PRODUCTS_VARIABLE, products):
                return train_step.lower(
                    *(self._state, *self._rest), **self._static, groups=groups, last=self._last
                )
        finally:
            jax.clear_caches()

    def take(self, step: Step, count: int) -> float:
        """Takes some steps.

        Returns:
            Seconds for each.
        """
        began = time.perf_counter()
        for _ in range(count):
            self._state, _ = step(self._state, *self._rest, last=self._last)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / count

    def fastest(
        self,
        ways: dict[str, Way] | None = None,
        repeats: int = 10,
        patience: float = 120.0,
    ) -> tuple[Step, dict[str, float]]:
        """Compiles the step in several ways, and takes the one that runs fastest.

        Args:
            ways: By name; those for the device that is there if None.
            repeats: Steps that are timed.
            patience: Seconds after which those ways are left out that are not compiled yet, once
                there is another.

        Returns:
            The step, and the seconds of one in each way, as it comes and one at a time. Ways that
            do not compile or run here are left out.

        Raises:
            RuntimeError: None of them does.
        """
        if ways is None:
            ways = WAYS if jax.default_backend() == "gpu" else {"as usual": Way()}
        needed = {(way.products, way.groups) for way in ways.values()}
        lowered = {what: self._lowered(*what) for what in needed}
        pool = ThreadPoolExecutor()
        compiling = {
            name: pool.submit(lowered[way.products, way.groups].compile, way.options)
            for name, way in ways.items()
        }
        wait(compiling.values(), patience)
        wait(compiling.values(), return_when=FIRST_COMPLETED)
        pool.shutdown(wait=False, cancel_futures=True)
        steps, seconds, failed = {}, {}, []
        for name, compiled in compiling.items():
            if not compiled.done():
                failed.append(f"{name}: not compiled after {patience:.0f} s")
                continue
            try:
                self.take(compiled.result(), 1)  # The first one sets up what the others use.
                for how, step in (
                    (name, compiled.result()),
                    (f"{name}, one at a time", one_at_a_time(compiled.result())),
                ):
                    steps[how], seconds[how] = step, self.take(step, repeats)
            except RuntimeError as error:
                failed.append(f"{name}: {error}")
                self._state = self._fresh()  # It may have taken the last one with it.
        if not seconds:
            raise RuntimeError("the step cannot be compiled or run here: " + "; ".join(failed))
        return steps[min(seconds, key=lambda name: seconds[name])], seconds


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

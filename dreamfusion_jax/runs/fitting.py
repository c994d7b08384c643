"""How many scenes fit into a device's memory at once, as the compiler tells it."""

import dataclasses

import jax

from dreamfusion_jax.devices import OutOfMemoryError, device_errors, device_memory
from dreamfusion_jax.distillation.train import Model, init_state, train_scenes
from dreamfusion_jax.priors.prior import encode_prompts
from dreamfusion_jax.pytree import tree_bytes
from dreamfusion_jax.runs.run import LoadedPrior
from dreamfusion_jax.runs.settings import RunSettings

_SHARE = 0.7
"""Of a device's memory; pictures, meshes and other programs need some, too."""

_MOST_ON_CPU, _MOST = 4, 32
"""Scenes that are worth batching: a CPU works on one at a time whatever the batch."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A size of batches, and why.

    Attributes:
        scenes: At once.
        bytes: That a step of them takes, as the compiler tells it; None where it does not.
        memory: Bytes of the device; None if it is not told.
    """

    scenes: int
    bytes: int | None
    memory: int | None

    def __str__(self) -> str:
        sizes = [
            f"{what} {size / 2**30:.2f} GiB"
            for size, what in ((self.bytes, "a step takes"), (self.memory, "to be used"))
            if size is not None
        ]
        return f"scenes at once: {self.scenes} ({', '.join(sizes) or 'memory is not told'})"


def scenes_that_fit(
    settings: RunSettings, loaded: LoadedPrior, most: int, memory: int | None = None
) -> Fit:
    """The most scenes, up to a number, whose step fits into a device.

    The step is compiled for as many as are wanted; where it does not fit, for as many as should,
    were all beside the prior's weights in proportion.

    Args:
        settings: Of one of the runs.
        loaded: The prior.
        most: Scenes that are wanted.
        memory: Bytes to fill; None for what the device has, of which a part is left free.
    """
    if memory is None:
        told = device_memory()
        memory = None if told is None else int(_SHARE * told)
    cap = _MOST_ON_CPU if jax.default_backend() == "cpu" else _MOST
    scenes, weights = min(most, cap), tree_bytes(loaded[1])
    while scenes > 1:
        try:
            needed = _step_bytes(settings, loaded, scenes)
        except OutOfMemoryError:  # Of the compiler, which tries things out.
            scenes //= 2
            continue
        if needed is None or memory is None or needed <= memory:
            return Fit(scenes, needed, memory)
        room, own = max(memory - weights, 0), max(needed - weights, 1)
        scenes = max(min(scenes * room // own, scenes - 1), 1)
    return Fit(1, None, memory)


def _step_bytes(settings: RunSettings, loaded: LoadedPrior, scenes: int) -> int | None:
    """What a step of so many scenes takes, by the compiler; None where it does not tell."""
    prior, params = loaded
    config = settings.config
    model = Model(config.scene, prior)
    text = encode_prompts(
        prior, params, settings.prompt, config.train.prompts, settings.negative_prompt
    )
    state = jax.eval_shape(lambda: init_state(model, config.train, settings.seed))
    states, texts = (
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((scenes, *leaf.shape), leaf.dtype), tree)
        for tree in (state, text)
    )
    lowered = train_scenes.lower(states, params, texts, model=model, config=config.train)
    with device_errors(f"a step of {scenes} scenes"):
        used = lowered.compile().memory_analysis()
    if used is None:
        return None
    return (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        - used.alias_size_in_bytes
        + used.temp_size_in_bytes
    )

"""How the devices at hand share a run, or a batch of runs."""

import dataclasses

import jax
from jax.sharding import Mesh

from dreamfusion_jax.devices import Split, choose_split, device_memory, make_mesh
from dreamfusion_jax.runs.fitting import tree_bytes
from dreamfusion_jax.runs.run import LoadedPrior, Say
from dreamfusion_jax.runs.settings import RunSettings
from experiments.run_options import SplitOptions


def chosen_mesh(
    options: SplitOptions, settings: RunSettings, loaded: LoadedPrior, say: Say, scenes: int = 1
) -> Mesh | None:
    """The mesh of a run or a batch; says how it shares the work. None for one device.

    Args:
        options: What was asked for.
        settings: Of one of the runs.
        loaded: The prior.
        say: Is told.
        scenes: That are trained together.

    Raises:
        ValueError: There are not so many devices, or a host would have nothing to do.
    """
    found = choose_split(
        jax.device_count(),
        views=settings.config.train.views,
        scenes=scenes,
        weights=tree_bytes(loaded[1]),
        memory=device_memory(),
    )
    given = {name: n for name, n in dataclasses.asdict(options).items() if n is not None}
    split = Split(**given) if given else found
    for name, axis, number in (
        ("scene", split.scene, scenes),
        ("view", split.view, settings.config.train.views),
    ):
        if number % axis:
            raise ValueError(f"{number} {name}s cannot be shared by {axis} equal parts")
    if jax.process_count() > 1 and split.devices != jax.device_count():
        raise ValueError(
            f"hosts train together only where every device has a part: {split} is not "
            f"{jax.device_count()} devices"
        )
    if split.devices == 1:
        return None
    say(f"{split.devices} of {jax.device_count()} devices: {split}")
    return make_mesh(split=split)

"""How the devices at hand share a run, or a batch of runs."""

import dataclasses

import jax
from jax.sharding import Mesh

from dreamfusion_jax.devices import device_memory
from dreamfusion_jax.pytree import tree_bytes
from dreamfusion_jax.runs.checkpoint import load_config
from dreamfusion_jax.runs.run import LoadedPrior, Say
from dreamfusion_jax.runs.settings import RunSettings, read_settings
from dreamfusion_jax.sharing import Split, choose_split, make_mesh
from experiments.run_options import Arguments, SplitOptions, settings_of

_SMALL = ("toybox", "oracle")
"""Priors whose networks do not fill the cores of a CPU."""


def asked_split(options: SplitOptions, views: int, scenes: int) -> Split | None:
    """The split that was asked for; None if none was.

    Raises:
        ValueError: It cannot be had, or does not divide what it shares.
    """
    given = {name: n for name, n in dataclasses.asdict(options).items() if n is not None}
    if not given:
        return None
    split = Split(**given)
    make_mesh(split=split)
    for name, axis, number in (("scene", split.scene, scenes), ("view", split.view, views)):
        if number % axis:
            raise ValueError(f"{number} {name}s cannot be shared by {axis} equal parts")
    return split


def views_for_cores(arguments: Arguments) -> int:
    """Views of a step that the cores of a CPU may share; 1 where they had better not.

    The networks of the priors that come with the package are small. Others fill all cores, and
    each device would hold a copy of their weights. Scenes of a batch fill the cores as well.

    Raises:
        CheckpointError: The folder to go on with is missing or not a run's.
    """
    if arguments.many or arguments.hosts or arguments.split != SplitOptions():
        return 1
    if arguments.resume is None:
        settings = settings_of(arguments)
    else:
        settings = read_settings(load_config(arguments.resume), arguments.resume)
    return settings.config.train.views if settings.prior in _SMALL else 1


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
        ValueError: What was asked for cannot be had, or a host would have nothing to do.
    """
    views = settings.config.train.views
    split = asked_split(options, views, scenes) or choose_split(
        jax.device_count(),
        views=views,
        scenes=scenes,
        weights=tree_bytes(loaded[1]),
        memory=device_memory(),
    )
    if jax.process_count() > 1 and split.devices != jax.device_count():
        raise ValueError(
            f"hosts train together only where every device has a part: {split} is not "
            f"{jax.device_count()} devices"
        )
    if split.devices == 1:
        return None
    say(f"{split.devices} of {jax.device_count()} devices: {split}")
    return make_mesh(split=split)

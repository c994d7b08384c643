"""How several devices and hosts share a run.

Scenes and the views of a step side by side, as on the paper's four TPU cores, and weights that no
device holds alone.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dreamfusion_jax.checks import check_count

_T = TypeVar("_T")

_WORTH_CUTTING = 1 << 14
"""Elements; smaller arrays are cheaper to copy than to bring together."""


@dataclasses.dataclass(frozen=True)
class Split:
    """How devices share the work; each number is the length of an axis of the mesh.

    Attributes:
        scene: Scenes side by side, which tell each other nothing.
        view: Views of a step, as on the paper's four devices: gradients are averaged.
        model: Parts of the prior's weights, which are brought together layer by layer.

    Raises:
        SettingError: A number is below one.
    """

    scene: int = 1
    view: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        check_count(self, "scene", "view", "model")

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.scene * self.view * self.model

    def __str__(self) -> str:
        return f"scenes over {self.scene}, views over {self.view}, the prior over {self.model}"


def choose_split(
    devices: int,
    *,
    views: int,
    scenes: int = 1,
    weights: int = 0,
    memory: int | None = None,
) -> Split:
    """The split that uses most of the devices and moves least between them.

    The prior's weights are cut up only where half of a device's memory does not hold them. Then
    scenes come before views, because they exchange nothing.

    Args:
        devices: How many there are.
        views: Of a step; their axis has to divide them.
        scenes: That are trained together; so has theirs.
        weights: Bytes of the prior's parameters.
        memory: Bytes of one device; None if it is not told.
    """
    model = 1
    if memory is not None:
        parts = [n for n in _divisors(devices) if weights <= n * memory // 2]
        model = parts[0] if parts else devices
    rest = devices // model
    view_axes = [n for n in _divisors(views) if n <= rest]
    choices = [Split(n, m, model) for n in _divisors(scenes) for m in view_axes if n * m <= rest]
    return max(choices, key=lambda split: (split.devices, split.scene))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def make_mesh(
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    split: Split | None = None,
) -> Mesh:
    """Devices for `train.train_step(..., mesh=...)`, with the axes of a `Split`.

    Parameters of a scene are on every device of its part of the mesh, and gradients are
    averaged over the views (DreamFusion, section 3.2: 4 devices, a view each).

    Args:
        devices: Which devices, of all hosts; every one if None. The split may leave some idle.
        split: How they share the work; by views alone if None.

    Raises:
        ValueError: The split needs more devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    split = Split(view=len(devices)) if split is None else split
    if split.devices > len(devices):
        raise ValueError(f"{split} takes {split.devices} devices, there are {len(devices)}")
    shape, names = dataclasses.astuple(split), tuple(dataclasses.asdict(split))
    chosen = devices[: split.devices]
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(names), devices=chosen)


def spread_weights(params: _T, mesh: Mesh) -> _T:
    """Puts the weights of a network on a mesh, each cut along its longest axis by "model".

    XLA brings them together, or cuts the arithmetic, layer by layer. Small arrays, and those
    of which no axis divides evenly, are copied.

    Args:
        params: Arrays, equal on every host.
        mesh: The devices, as of `make_mesh`.
    """
    parts = mesh.shape["model"]

    def place(leaf: Any) -> Any:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        spec = PartitionSpec()
        if parts > 1 and axes and leaf.size >= _WORTH_CUTTING:
            axis = max(axes, key=lambda axis: leaf.shape[axis])
            spec = PartitionSpec(*(None,) * axis, "model")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, params)


def replicate(tree: _T, mesh: Mesh) -> _T:
    """Puts a copy of arrays on every device of a mesh: the state, the prior, the text.

    Args:
        tree: Arrays, equal on every host.
        mesh: The devices.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def at_hand(tree: _T) -> _T:
    """Arrays as this host's first device has them, if every device has a copy of all of them.

    What is asked about them is then done once, and not again by every device. Where one of them is
    cut up, all stay as they are, so that they can be used together.
    """
    spread = [leaf for leaf in jax.tree.leaves(tree) if count_devices(leaf) > 1]
    if not all(leaf.is_fully_replicated for leaf in spread):
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0) if count_devices(x) > 1 else x, tree)


def count_devices(leaf: Any) -> int:
    """How many devices share an array, or have a copy each; 1 for what is no array of JAX."""
    return len(leaf.sharding.device_set) if isinstance(leaf, jax.Array) else 1


def agreed(ask: Callable[[], int], every: int = 10) -> Callable[[], int]:
    """A question that all hosts answer alike: with the largest of their answers.

    Args:
        ask: Of this host.
        every: Hosts are asked once in so many calls, which all of them make; 0 in between.
    """
    if jax.process_count() == 1:
        return ask
    calls = itertools.count(1)

    def ask_all() -> int:
        if next(calls) % every:
            return 0
        return int(multihost_utils.process_allgather(np.int32(ask())).max())

    return ask_all


def initialize_hosts(
    coordinator: str | None = None, num_hosts: int | None = None, host: int | None = None
) -> None:
    """Joins the hosts of a run, each of which runs the same program; to be called first.

    Args:
        coordinator: "address:port" of host 0. None, as for the other arguments, where JAX
            finds it out by itself: on TPU pods and under Slurm.
        num_hosts: How many hosts there are.
        host: Number of this host, from 0.
    """
    jax.distributed.initialize(coordinator, num_hosts, host)

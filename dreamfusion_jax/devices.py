"""What runs where.

The type that large networks compute in, and several devices: the views of a step side by
side, as on the paper's four TPU cores.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_T = TypeVar("_T")


def compute_dtype() -> jnp.dtype:
    """What pretrained networks compute in: bfloat16 on accelerators, float32 on CPUs."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def make_mesh(
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """A line of devices for `train.train_step(..., mesh=...)`, whose axis is called "view".

    The views of a step are spread over it; parameters are on every device and
    gradients are averaged (DreamFusion, section 3.2: 4 devices, a view each).

    Args:
        devices: Which devices, of all hosts; every one if None.
    """
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("view",), (AxisType.Auto,), devices=devices)


def replicate(tree: _T, mesh: Mesh) -> _T:
    """Puts a copy of arrays on every device of a mesh: the state, the prior, the text.

    Args:
        tree: Arrays, equal on every host.
        mesh: The devices.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


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

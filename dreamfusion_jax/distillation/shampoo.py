"""Distributed Shampoo (2002.09018), the optimiser of the paper, as an optax transformation."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dreamfusion_jax.checks import DECAY, POSITIVE, check_count, check_range
from dreamfusion_jax.distillation.rates import RateConfig

_PRECISION = jax.lax.Precision.HIGHEST
_SMALLEST_NORM = 1e-25


@dataclasses.dataclass(frozen=True)
class ShampooConfig(RateConfig):
    """Settings of Distributed Shampoo; the defaults are DreamFusion's (appendix A.2).

    Attributes:
        learning_rate: at its highest.
        initial: share of the highest learning rate at the first step, if there is a warm-up.
        final: share of the highest learning rate that is left at the end.
        warm_up: when it is highest, a fraction of the run.
        parts: multiples of the learning rate for the parts of a scene.
        beta1: decay of the momentum.
        beta2: decay of the second-moment matrices.
        exponent: each axis is preconditioned with the inverse root of this order.
        block_size: larger axes are cut in blocks of this size.
        epsilon: ridge of the root relative to the largest eigenvalue; also the initial diagonal.
        start_preconditioning_step: until this step the update is the sign of the gradient.
        max_merged_size: neighbouring axes are merged while their product is at most this.
        max_dimension: tensors with a larger axis are not preconditioned.

    Raises:
        SettingError: A setting is out of its range.
    """

    beta1: float = 0.9
    beta2: float = 0.9
    exponent: int = 2
    block_size: int = 128
    epsilon: float = 1e-6
    start_preconditioning_step: int = 5
    max_merged_size: int = 4096
    max_dimension: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, DECAY, "beta1", "beta2")
        check_range(self, POSITIVE, "epsilon")
        check_count(self, "exponent", "block_size", "max_merged_size", "max_dimension")
        check_count(self, "start_preconditioning_step", least=0)


class ShampooState(NamedTuple):
    """State of `shampoo`: plain arrays in dicts and tuples, so that any checkpointer takes it.

    Attributes:
        step: steps taken.
        momentum: of the preconditioned updates, like the parameters.
        sign_momentum: of the gradient's signs, like the parameters.
        moments: for every shape of block, named like '128x48', and for every axis of it, the
            second moments [blocks, size, size] of all blocks of that shape.
        roots: their inverse roots, in the same layout.
    """

    step: Int[Array, ""]
    momentum: Any
    sign_momentum: Any
    moments: dict[str, tuple[Array, ...]]
    roots: dict[str, tuple[Array, ...]]


class _Piece(NamedTuple):
    """A part of a tensor that splits evenly in blocks.

    Attributes:
        leaf: number of the tensor.
        merged_shape: shape of the tensor after merging axes.
        start: where the part begins in the merged tensor.
        counts: blocks along each axis.
        block: shape of a block.
    """

    leaf: int
    merged_shape: tuple[int, ...]
    start: tuple[int, ...]
    counts: tuple[int, ...]
    block: tuple[int, ...]


def shampoo(
    learning_rate: optax.ScalarOrSchedule, config: ShampooConfig | None = None
) -> optax.GradientTransformation:
    """Distributed Shampoo grafted to the sign of the gradient, in one process.

    For a block G of the gradient and each of its axes (2002.09018, algorithm 1 and section 3):
        M <- beta2 M + (1 - beta2) G G^T, with M_0 = epsilon I,
        P = (M + epsilon lambda_max(M) I)^(-1 / exponent),
    and G is multiplied by P on every axis. The tensor put together from its blocks is scaled to
    the norm of sign(gradient) (grafting, type SQRT_N), which gives u. Then m <- beta1 m + u and
    the update is -learning_rate(step) (u + beta1 m) (Nesterov), with step counted from 0. Before
    `start_preconditioning_step`, and always for scalars and for tensors with an axis longer than
    `max_dimension`, u = sign(gradient), with a momentum of its own.

    Args:
        learning_rate: a number or an optax schedule, such as `config.schedule(steps)`; it stays
            outside the momentum.
        config: the settings of the algorithm; those of the paper if not given.

    Returns:
        A transformation whose updates are added to the parameters: the learning rate is inside.
    """
    config = config or ShampooConfig()

    def init(params: optax.Params) -> ShampooState:
        identities = {}
        for name, pieces in _group_pieces(jax.tree.leaves(params), config).items():
            num = sum(math.prod(piece.counts) for piece in pieces)
            identities[name] = tuple(
                jnp.tile(jnp.eye(size), (num, 1, 1)) for size in pieces[0].block
            )
        # Two sets of zeros, since a donated state may not hold a buffer twice.
        momentum, sign_momentum = (
            jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params) for _ in range(2)
        )
        moments = jax.tree.map(lambda identity: config.epsilon * identity, identities)
        step = jnp.zeros((), jnp.int32)
        return ShampooState(step, momentum, sign_momentum, moments, identities)

    def update(
        updates: optax.Updates, state: ShampooState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ShampooState]:
        del params
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        direction, moments, roots = _precondition(gradients, state, config)
        sign = jax.tree.map(jnp.sign, gradients)
        direction = jax.tree.map(_graft, direction, sign)

        momentum = jax.tree.map(lambda m, u: config.beta1 * m + u, state.momentum, direction)
        sign_momentum = jax.tree.map(lambda m, u: config.beta1 * m + u, state.sign_momentum, sign)
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(rate, jnp.float32)
        early = state.step < config.start_preconditioning_step

        def move(gradient: Array, u: Array, m: Array, sign_u: Array, sign_m: Array) -> Array:
            preconditioned, signed = u + config.beta1 * m, sign_u + config.beta1 * sign_m
            return (-rate * jnp.where(early, signed, preconditioned)).astype(gradient.dtype)

        new_updates = jax.tree.map(move, updates, direction, momentum, sign, sign_momentum)
        state = ShampooState(state.step + 1, momentum, sign_momentum, moments, roots)
        return new_updates, state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _merge_axes(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Merges neighbouring axes from the left while their product is at most the limit."""
    merged = [1]
    for size in shape:
        if merged[-1] * size <= limit:
            merged[-1] *= size
        else:
            merged.append(size)
    return tuple(size for size in merged if size > 1) or (1,)


def _group_pieces(leaves: list[Any], config: ShampooConfig) -> dict[str, list[_Piece]]:
    """Cuts the tensors and gathers the pieces of equal block shape under names like '128x48'.

    An axis gives one piece of as many full blocks as fit, and one smaller block of what is left.
    """
    groups: dict[str, list[_Piece]] = {}
    for index, leaf in enumerate(leaves):
        if leaf.ndim == 0 or max(leaf.shape) > config.max_dimension:
            continue
        merged = _merge_axes(leaf.shape, config.max_merged_size)
        axes = []
        for size in merged:
            full, rest = divmod(size, config.block_size)
            parts = [(0, full, config.block_size), (size - rest, 1, rest)]
            axes.append([part for part in parts if part[1] * part[2] > 0])
        for parts in itertools.product(*axes):
            start, counts, block = zip(*parts, strict=True)
            piece = _Piece(index, merged, start, counts, block)
            groups.setdefault("x".join(map(str, block)), []).append(piece)
    return groups


def _cut(leaf: Array, piece: _Piece) -> Array:
    """The blocks [blocks, *block] of a piece."""
    sizes = tuple(n * b for n, b in zip(piece.counts, piece.block, strict=True))
    part = jax.lax.dynamic_slice(leaf.reshape(piece.merged_shape), piece.start, sizes)
    rank = len(piece.block)
    split = itertools.chain(*zip(piece.counts, piece.block, strict=True))
    part = part.reshape(tuple(split)).transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
    return part.reshape(-1, *piece.block)


def _paste(leaf: Array, piece: _Piece, blocks: Array) -> Array:
    """The tensor with the blocks of a piece in their places: the inverse of `_cut`."""
    rank = len(piece.block)
    part = blocks.reshape(piece.counts + piece.block)
    part = part.transpose(*itertools.chain(*zip(range(rank), range(rank, 2 * rank), strict=True)))
    part = part.reshape([n * b for n, b in zip(piece.counts, piece.block, strict=True)])
    whole = leaf.reshape(piece.merged_shape)
    return jax.lax.dynamic_update_slice(whole, part, piece.start).reshape(leaf.shape)


def _precondition(
    gradients: optax.Updates, state: ShampooState, config: ShampooConfig
) -> tuple[optax.Updates, dict[str, tuple[Array, ...]], dict[str, tuple[Array, ...]]]:
    """Preconditioned gradients (signs where skipped), new second moments and new roots."""
    leaves, treedef = jax.tree.flatten(gradients)
    direction = [jnp.sign(leaf) for leaf in leaves]
    moments, roots = {}, {}
    for name, pieces in _group_pieces(leaves, config).items():
        blocks = jnp.concatenate([_cut(leaves[piece.leaf], piece) for piece in pieces])
        moments[name] = tuple(
            config.beta2 * old + (1.0 - config.beta2) * _second_moment(blocks, axis)
            for axis, old in enumerate(state.moments[name])
        )
        roots[name] = tuple(
            _inverse_root(moment, old, config)
            for moment, old in zip(moments[name], state.roots[name], strict=True)
        )
        for root in roots[name]:
            # Multiplies the first axis and puts it last: after all axes the order is restored.
            blocks = jnp.einsum("nab,na...->n...b", root, blocks, precision=_PRECISION)
        first = 0
        for piece in pieces:
            last = first + math.prod(piece.counts)
            direction[piece.leaf] = _paste(direction[piece.leaf], piece, blocks[first:last])
            first = last
    return treedef.unflatten(direction), moments, roots


def _second_moment(blocks: Float[Array, "n *block"], axis: int) -> Float[Array, "n d d"]:
    """G G^T of every block, with `axis` for the rows and all other axes for the columns."""
    rows = jnp.moveaxis(blocks, axis + 1, 1)
    rows = rows.reshape(*rows.shape[:2], math.prod(rows.shape[2:]))
    return jnp.einsum("nak,nbk->nab", rows, rows, precision=_PRECISION)


@jax.custom_batching.sequential_vmap
def _one_by_one(matrix: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues and eigenvectors; of several matrices, by `vmap`, one after the other.

    Of several at once XLA on a CPU holds a thread of its pool while others do its share:
    two such calls, of one device or two, stopped two cores for ever (jaxlib 0.10.2).
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _inverse_root(
    moment: Float[Array, "n d d"], old: Float[Array, "n d d"], config: ShampooConfig
) -> Float[Array, "n d d"]:
    """(M + epsilon lambda_max I)^(-1 / exponent), or the old root where that is not finite."""
    values, vectors = jax.lax.platform_dependent(
        moment, cpu=jax.vmap(_one_by_one), default=lambda x: tuple(jnp.linalg.eigh(x))
    )
    # M has no negative eigenvalues; those that rounding leaves would outweigh the ridge.
    values = jnp.maximum(values, 0.0) + config.epsilon * values[:, -1:]
    scaled = vectors * (values ** (-1.0 / config.exponent))[:, None, :]
    root = jnp.einsum("nak,nbk->nab", scaled, vectors, precision=_PRECISION)
    finite = jnp.all(jnp.isfinite(root), axis=(1, 2), keepdims=True)
    return jnp.where(finite, root, old)


def _graft(
    direction: Float[Array, "*shape"], sign: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The direction, scaled to the norm of the sign of the gradient."""
    norm, wanted = (jnp.sqrt(jnp.sum(x**2)) for x in (direction, sign))
    return direction * (wanted / (norm + _SMALLEST_NORM))

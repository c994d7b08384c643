"""The same work in PyTorch, written plainly, for `experiments.benchmark` to be compared with."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dreamfusion_jax.benchmark.components import Setting
from dreamfusion_jax.benchmark.table import Compared
from dreamfusion_jax.benchmark.timing import Case, Running, repeat
from dreamfusion_jax.scene.camera import cast_rays, orbit, sphere_bounds
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.protocol import Field
from dreamfusion_jax.scene.intervals import uniform_edges
from dreamfusion_jax.scene.render import composite, interval_points

_GREY = 0.65


class TorchGrid(torch.nn.Module):
    """`GridField` of dense levels by `grid_sample`, and the compositing of its samples.

    Args:
        field: Whose arithmetic it repeats.
        tables: A table [R^3, F] a level.
    """

    def __init__(self, field: GridField, tables: list[np.ndarray]) -> None:
        super().__init__()
        self.field = field
        # Rows are in the order x, y, z; grid_sample takes [1, F, z, y, x].
        self.levels = torch.nn.ParameterList(
            torch.from_numpy(np.array(table).reshape(n, n, n, -1)).permute(3, 2, 1, 0)[None]
            for n, table in zip(field.grid.resolutions, tables, strict=True)
        )

    def forward(self, points: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Colours [R, 3] over grey of rays with samples at points [R, S, 3]."""
        place = (points / self.field.radius)[None, None]
        raw = sum(
            torch.nn.functional.grid_sample(
                level, place, padding_mode="border", align_corners=True
            )[0, :, 0]
            for level in self.levels
        )
        assert isinstance(raw, torch.Tensor)
        shape = self.field.density
        bump = shape.strength * torch.exp(-0.5 * (points**2).sum(-1) / shape.width**2)
        density = torch.exp(raw[0] + shape.bias + bump)
        optical = density * edges.diff(dim=-1)
        before = torch.nn.functional.pad(optical[..., :-1].cumsum(-1), (1, 0))
        weights = -torch.expm1(-optical) * torch.exp(-before)
        albedo = torch.sigmoid(raw[1:4]).permute(1, 2, 0)
        colour = (weights[..., None] * albedo).sum(-2)
        return colour + (1.0 - weights.sum(-1, keepdim=True)) * _GREY


def render_colours(field: GridField, params: Any, points: jax.Array, edges: jax.Array) -> jax.Array:
    """What `TorchGrid` does, with the library's own functions."""
    density, albedo = field(params, points, jnp.zeros(points.shape[:-1]))
    weights = composite(density, edges)
    colour = jnp.sum(weights[..., None] * albedo, axis=-2)
    return colour + (1.0 - jnp.sum(weights, axis=-1, keepdims=True)) * _GREY


def renders(field: Field) -> bool:
    """Whether the peer can render a field: a grid of dense levels, its blob inside."""
    if not isinstance(field, GridField) or field.density.blob != "inside":
        return False
    return all(n**3 <= 2**field.grid.log2_table_size for n in field.grid.resolutions)


def compare_rendering(setting: Setting, seconds: float) -> Iterator[Compared]:
    """Renders a preset's field, there and back, as PyTorch does.

    Args:
        setting: A preset whose field `renders` is true for.
        seconds: To spend on each.
    """
    field = setting.config.scene.field
    assert isinstance(field, GridField)
    scene, size, views = setting.config.scene, setting.prior.image_size, setting.config.train.views
    rays = cast_rays(orbit(views, 0.35, 1.3, 1.1), size, size)
    rays = jax.tree.map(lambda x: x.reshape(-1, 3), rays)
    edges = uniform_edges(*sphere_bounds(rays, scene.sampling.radius), scene.sampling.intervals)
    points = interval_points(rays, edges)[1]
    params = [0.5 * table / 1e-4 for table in field.init(jax.random.key(0))]  # Not nearly flat.
    peer = TorchGrid(field, [np.asarray(table) for table in params])
    places, ends = (torch.from_numpy(np.array(x)) for x in (points, edges))
    pixels = f"{views} views of {size} pixels, {scene.sampling.intervals} samples"

    def loss(params: Any, points: jax.Array, edges: jax.Array) -> jax.Array:
        return jnp.sum(render_colours(field, params, points, edges) ** 2)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return peer(places, ends)

    def backward() -> list[torch.Tensor]:
        return [*torch.autograd.grad((peer(places, ends) ** 2).sum(), [*peer.levels])]

    def render(params: Any, points: jax.Array, edges: jax.Array) -> jax.Array:
        return render_colours(field, params, points, edges)

    ours = Case.of(f"rendering, {pixels}", render, params, points, edges)
    yield in_turn(Running(ours), ours.name, forward, _distance_of_colours, seconds)
    ours = Case.of(f"rendering and its gradient, {pixels}", jax.grad(loss), params, points, edges)
    yield in_turn(Running(ours), ours.name, backward, _distance_of_tables, seconds)


def in_turn(
    ours: Running,
    name: str,
    theirs: Callable[[], Any],
    distance: Callable[[Any, Any], float],
    seconds: float,
) -> Compared:
    """Times a case and its peer one after the other, again and again.

    Args:
        ours: The case.
        name: Of the comparison.
        theirs: The peer; returns when all is done.
        distance: Of the two results.
        seconds: To spend.
    """
    peer = Running(Case(name, theirs, tuple))
    pairs: list[tuple[float, float]] = []

    def once() -> float:
        pairs.append((ours.time(), peer.time()))
        return sum(pairs[-1])

    repeat(once, seconds)
    difference = distance(ours.case.function(*ours.case.arguments()), theirs())
    our_time, their_time = (float(np.median(one)) for one in zip(*pairs, strict=True))
    ratios = sorted(their / our for our, their in pairs)
    return Compared(name, our_time, their_time, tuple(ratios), difference)


def share(ours: Any, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def _distance_of_colours(ours: jax.Array, theirs: torch.Tensor) -> float:
    return share(ours, theirs.numpy())


def _distance_of_tables(ours: list[jax.Array], theirs: list[torch.Tensor]) -> float:
    """Of gradients of tables: [R^3, F] against [1, F, z, y, x]."""
    return max(
        share(our, their[0].permute(3, 2, 1, 0).reshape(our.shape).numpy())
        for our, their in zip(ours, theirs, strict=True)
    )

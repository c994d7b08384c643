"""Several scenes in one picture: one pass along each ray, one light for all.

Along a ray each scene is a step function of density. Laid on top of each other, with the edges
of all of them, they are one step function again, so that the light that stops in each scene is
known exactly: who is in front hides who is behind, and where two scenes meet they share.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.compose.illumination import Illumination, light_received
from dreamfusion_jax.looks.latents import ColourMap
from dreamfusion_jax.maths import expand_to, safe_norm
from dreamfusion_jax.pytree import pytree, static
from dreamfusion_jax.scene.camera import Camera, Rays, cast_rays
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.render import (
    SceneModel,
    composite,
    interval_points,
    sample_intervals,
)
from dreamfusion_jax.scene.shading import smooth_normals

SHADOW_GAP = 0.08
"""How far from a surface the way to a lamp begins, in units of the object's size: surfaces are
soft, and would lie in the shadow of their own outer half."""


@pytree
class Placed:
    """A trained scene at its place in a larger one.

    Attributes:
        model: Field and sampling; the background is left out.
        params: Their parameters.
        variance: lambda_Sigma of the finished scene.
        colours: Makes colours of latents; None where the field gives colours.
        rotation: From the scene's axes to the world's.
        position: Of the scene's origin in the world.
        size: World units that one unit of the scene becomes.
    """

    model: SceneModel = static()
    params: Params
    variance: Float[Array, ""]
    colours: ColourMap | None
    rotation: Float[Array, "3 3"]
    position: Float[Array, "3"]
    size: Float[Array, ""]

    def rays(self, rays: Rays) -> Rays:
        """Rays of the world in the scene's own frame; distances there are 1 / size as long."""
        full = jax.lax.Precision.HIGHEST
        offset = (rays.origin - expand_to(self.position, rays.origin.ndim, tail=1)) / self.size
        return Rays(
            jnp.matmul(offset, self.rotation, precision=full),
            jnp.matmul(rays.direction, self.rotation, precision=full),
        )

    def edges(self, rays: Rays) -> Float[Array, "*batch E"]:
        """Ends of the intervals at which rays of the scene's frame ask the field."""
        return sample_intervals(
            self.model,
            self.params,
            rays,
            variance=self.variance,
            key=None,
            train_fraction=jnp.asarray(1.0),
        )[0]

    def field(
        self, points: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch 3"]]:
        """Density and colour of points of the scene's frame, per unit of the scene."""
        spread = jnp.broadcast_to(self.variance, points.shape[:-1])
        density, albedo = self.model.field(self.params["field"], points, spread)
        return density, albedo if self.colours is None else self.colours(albedo)


@pytree
class Samples:
    """A placed scene along rays [*batch] of the world, all in units of the world."""

    density: Float[Array, "*batch S"]
    edges: Float[Array, "*batch S+1"]
    colour: Float[Array, "*batch S 3"]
    normal: Float[Array, "*batch S 3"]


@pytree
class Seen:
    """What is seen along rays [*batch].

    Attributes:
        colour: Lit colour, premultiplied by the opacity; nothing behind it.
        opacity: Sum of the weights.
        depth: Expected distance where something is seen; infinite elsewhere.
    """

    colour: Float[Array, "*batch 3"]
    opacity: Float[Array, "*batch"]
    depth: Float[Array, "*batch"]


def _middles(edges: jax.Array) -> jax.Array:
    return 0.5 * (edges[..., 1:] + edges[..., :-1])


def sample(placed: Placed, rays: Rays) -> Samples:
    """Asks a placed scene along rays of the world."""
    local = placed.rays(rays)
    edges = placed.edges(local)
    density, colour, normal = smooth_normals(
        placed.field, interval_points(local, edges)[1], placed.model.field.cell
    )
    normal = jnp.matmul(normal, placed.rotation.T, precision=jax.lax.Precision.HIGHEST)
    return Samples(density / placed.size, placed.size * edges, colour, normal)


def composite_together(
    edges: Sequence[Float[Array, "*batch _"]], density: Sequence[Float[Array, "*batch _"]]
) -> tuple[Float[Array, "*batch _"], ...]:
    """The weights of the intervals of several step functions that fill the same space.

    Between two neighbouring edges of all together the density is constant, tau = sum_k tau_k,
    and of what stops there each has the share tau_k / tau.

    Args:
        edges: [*batch, S_k + 1] sorted distances of each.
        density: [*batch, S_k] of each, per world unit.

    Returns:
        [*batch, S_k] weights of each.
    """
    merged = jnp.sort(jnp.concatenate(list(edges), axis=-1), axis=-1)
    middle = _middles(merged)
    there = [_at(middle, e, tau) for e, tau in zip(edges, density, strict=True)]
    total = functools.reduce(jnp.add, there)
    weights = composite(total, merged) / jnp.maximum(total, 1e-20)
    return tuple(_gather(weights * tau, merged, e) for tau, e in zip(there, edges, strict=True))


_search = jnp.vectorize(jnp.searchsorted, signature="(n),(m)->(m)")


def _at(place: jax.Array, edges: jax.Array, density: jax.Array) -> jax.Array:
    """A step function at sorted places; zero outside of its edges."""
    index = _search(edges, place) - 1
    inside = (index >= 0) & (index < density.shape[-1])
    safe = jnp.clip(index, 0, density.shape[-1] - 1)
    return jnp.where(inside, jnp.take_along_axis(density, safe, axis=-1), 0.0)


def _gather(weights: jax.Array, merged: jax.Array, edges: jax.Array) -> jax.Array:
    """Adds up the weights of the finer intervals that lie in each of the coarser ones."""
    before = jnp.cumsum(weights, axis=-1)
    before = jnp.concatenate([jnp.zeros_like(before[..., :1]), before], axis=-1)
    return jnp.diff(jnp.take_along_axis(before, _search(merged, edges), axis=-1))


def transmittance(
    scenes: Sequence[Placed],
    start: Float[Array, "*batch 3"],
    goal: Float[Array, "*batch 3"],
    gap: float | Float[Array, ""] = 0.0,
) -> Float[Array, "*batch"]:
    """The share of light that passes from one point to another through all scenes.

    Args:
        scenes: What is in the way.
        start: From where the way is marched.
        goal: Where it ends.
        gap: Length at its beginning that is left out, world units.
    """
    way = goal - start
    length = safe_norm(way)
    rays = Rays(start, way / jnp.maximum(length, 1e-12))
    optical = jnp.zeros(start.shape[:-1])
    for placed in scenes:
        local = placed.rays(rays)
        edges = placed.edges(local)
        density, _ = placed.field(interval_points(local, edges)[1])
        inside = jnp.clip(edges, gap / placed.size, length / placed.size)
        optical = optical + jnp.sum(density * jnp.diff(inside), axis=-1)
    return jnp.exp(-optical)


def render_rays(
    scenes: Sequence[Placed], illumination: Illumination, rays: Rays, *, shadows: bool = False
) -> Seen:
    """Renders rays of the world through all scenes in one pass.

    Args:
        scenes: At least one.
        illumination: The light on all of them.
        rays: [*batch] unit directions.
        shadows: Whether the way to each lamp is marched, from one point a ray and scene: the
            expected depth of what the ray sees of it.
    """
    samples = [sample(placed, rays) for placed in scenes]
    weights = composite_together([s.edges for s in samples], [s.density for s in samples])
    colour, nothing = jnp.zeros_like(rays.origin), jnp.zeros(rays.origin.shape[:-1])
    opacity, depth = nothing, nothing
    for placed, seen, weight in zip(scenes, samples, weights, strict=True):
        distance, points = interval_points(rays, seen.edges)
        share = jnp.sum(weight, axis=-1)
        summed = jnp.sum(weight * distance, axis=-1)
        visibility = None
        if shadows:
            reach = (summed / jnp.maximum(share, 1e-6))[..., None]
            at = rays.origin + reach * rays.direction
            gap = SHADOW_GAP * placed.size
            lamps = [
                transmittance(scenes, at, jnp.broadcast_to(lamp, at.shape), gap)
                for lamp in illumination.positions
            ]
            visibility = jnp.stack(lamps, axis=-1)[..., None, :]
        light = light_received(illumination, seen.normal, points, visibility)
        colour = colour + jnp.sum(weight[..., None] * seen.colour * light, axis=-2)
        opacity, depth = opacity + share, depth + summed
    expected = depth / jnp.maximum(opacity, 1e-6)
    return Seen(colour, opacity, jnp.where(opacity > 1e-3, expected, jnp.inf))


@functools.partial(jax.jit, static_argnames=("height", "width", "shadows", "chunk"))
def render_view(
    scenes: tuple[Placed, ...],
    illumination: Illumination,
    camera: Camera,
    *,
    height: int,
    width: int,
    shadows: bool = False,
    chunk: int = 1024,
) -> Seen:
    """One view of placed scenes, of any size.

    Args:
        scenes: At least one.
        illumination: The light on all of them.
        camera: One camera.
        height: Pixels.
        width: Pixels.
        shadows: See `render_rays`.
        chunk: Rays at once; bounds the memory.

    Returns:
        [H, W] of everything.
    """
    rays = cast_rays(camera, height, width)
    flat = jax.tree.map(lambda x: x.reshape(-1, 3), rays)

    def one(ray: Rays) -> Seen:
        ray = jax.tree.map(lambda x: x[None], ray)
        seen = render_rays(scenes, illumination, ray, shadows=shadows)
        return jax.tree.map(lambda x: x[0], seen)

    seen = jax.lax.map(one, flat, batch_size=min(chunk, height * width))
    return jax.tree.map(lambda x: x.reshape(height, width, *x.shape[1:]), seen)

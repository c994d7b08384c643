"""Normals from density, and the colour of a lit surface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.maths import expand_to, safe_normalize
from dreamfusion_jax.scene.lighting import Lighting, lambertian


def density_normals(
    field: Callable[
        [Float[Array, "*batch 3"]], tuple[Float[Array, "*batch"], Float[Array, "*batch C"]]
    ],
    points: Float[Array, "*batch 3"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch C"], Float[Array, "*batch 3"]]:
    """Density, albedo and normal n = -grad tau / |grad tau| (DreamFusion, section 3.1).

    One forward and one backward pass of the field. The normal is zero where tau is flat.

    Args:
        field: Density and albedo of points, each point for itself.
        points: Where to ask.
    """

    def density(p: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        tau, albedo = field(p)
        return tau, (tau, albedo)

    _, pullback, (tau, albedo) = jax.vjp(density, points, has_aux=True)
    (gradient,) = pullback(jnp.ones_like(tau))
    return tau, albedo, safe_normalize(-gradient)


def smooth_normals(
    field: Callable[
        [Float[Array, "*batch 3"]], tuple[Float[Array, "*batch"], Float[Array, "*batch C"]]
    ],
    points: Float[Array, "*batch 3"],
    step: float | None,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch C"], Float[Array, "*batch 3"]]:
    """`density_normals` with central differences in the place of the derivative.

    Over a cell to both sides the normals of a trilinear grid do not jump, and light shows no marks
    of its cells (numerical gradients: Neuralangelo, 2306.03092, section 3.2). What differs is
    tau / (1 + step tau), whose gradient looks where that of tau does: over a cell it would be the
    inside of a solid that decides, where one density is many times the other and neither is seen.

    Args:
        field: Density and albedo of points, each point for itself.
        points: Where to ask.
        step: To both sides, world units; None for the derivative.
    """
    if step is None:
        return density_normals(field, points)
    tau, albedo = field(points)

    def solidity(at: jax.Array) -> jax.Array:
        density = field(at)[0]
        return density / (1.0 + step * density)

    def slope(by: jax.Array) -> jax.Array:
        return solidity(points + by) - solidity(points - by)

    # In a loop, so that the field is compiled for it once.
    slopes = jax.lax.map(slope, expand_to(step * jnp.eye(3), points.ndim + 1, tail=1))
    return tau, albedo, safe_normalize(-jnp.moveaxis(slopes, 0, -1))


def shade(
    albedo: Float[Array, "*batch 3"],
    normal: Float[Array, "*#batch 3"],
    point: Float[Array, "*#batch 3"],
    lighting: Lighting,
) -> Float[Array, "*batch 3"]:
    """C = rho (l_rho max(0, n . l) + l_a), rho white if textureless (DreamFusion, eq. 4)."""
    bare = expand_to(lighting.textureless, albedo.ndim)
    paint = jnp.where(bare, 1.0, albedo)
    return paint * lambertian(normal, point, lighting)[..., None]

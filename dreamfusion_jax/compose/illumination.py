"""Light from many lamps and from all around."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.compose.environment import harmonics
from dreamfusion_jax.maths import safe_normalize
from dreamfusion_jax.pytree import pytree


@pytree
class Illumination:
    """What falls on a composed scene.

    Attributes:
        positions: Of the lamps, world units. Their light does not fade with distance, as that
            of the paper's lamps does not.
        colours: Of the lamps: what a white surface that faces one shows of it.
        surroundings: Light from all around, as harmonics of the normal; see
            `environment.prefilter` and `environment.uniform`.
    """

    positions: Float[Array, "L 3"]
    colours: Float[Array, "L 3"]
    surroundings: Float[Array, "9 3"]


def light_received(
    illumination: Illumination,
    normal: Float[Array, "*batch 3"],
    point: Float[Array, "*batch 3"],
    visibility: Float[Array, "*#batch L"] | None = None,
) -> Float[Array, "*batch 3"]:
    """What a white Lambertian surface shows: DreamFusion's eq. 4, for many lights.

    Args:
        illumination: The lights.
        normal: Outward unit normals.
        point: Where the surface is.
        visibility: Share of each lamp's light that arrives; None for all of it.
    """
    around = jnp.einsum("...k,kc->...c", harmonics(normal), illumination.surroundings)
    lead = (1,) * (point.ndim - 1)
    lamps = illumination.positions.reshape(*lead, -1, 3)
    towards = safe_normalize(lamps - point[..., None, :])
    cosine = jnp.maximum(jnp.sum(normal[..., None, :] * towards, axis=-1), 0.0)
    arriving = cosine if visibility is None else cosine * visibility
    lit = jnp.einsum("...l,lc->...c", arriving, illumination.colours)
    return jnp.maximum(around, 0.0) + lit

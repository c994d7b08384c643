"""Point lights, ambient light, and plain backdrops: what falls on a view but is not the scene."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, ScalarLike

from dreamfusion_jax import draws
from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_range, check_span
from dreamfusion_jax.maths import expand_to, safe_normalize
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.fields.protocol import LATENT_CHANNELS

LIGHT_GREY = 0.85
"""The usual plain backdrop of finished objects, before which white things are seen as well."""


@pytree
class Lighting:
    """The illumination of a view (DreamFusion, eq. 4) and how its surface is painted.

    Attributes:
        position: Of the point light, world units.
        ambient: l_a.
        diffuse: l_rho, the strength of the point light; zero draws plain albedo.
        textureless: Whether white stands in for the albedo.
    """

    position: Float[Array, "*batch 3"]
    ambient: Float[Array, "*batch"]
    diffuse: Float[Array, "*batch"]
    textureless: Bool[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class LightingConfig:
    """Distribution of the training lights (DreamFusion, section 3.1 and appendix A.2).

    Attributes:
        albedo_until: Up to this moment, a fraction of the run, the light is all ambient. The
            paper's 1,000 of 15,000 steps.
        diffuse_probability: Share of lit views after that.
        textureless_probability: Share of the lit views whose albedo is replaced by white.
        ambient: l_a of lit views.
        diffuse: l_rho of lit views.
        distance: Smallest and largest norm of the light's position.
        plain_backdrops: Departure: share of the views of a scene with a background of its own
            that have a plain backdrop in its place, as in stable-dreamfusion; of a scene of
            latents a plain latent, as in threestudio. A background that is there all the time can
            draw the prompt by itself, and fog of its colour passes for it.

    Raises:
        SettingError: A share is not within [0, 1], a strength is negative, or the distances
            are not positive or not in order.
    """

    albedo_until: float = 1 / 15
    diffuse_probability: float = 0.75
    textureless_probability: float = 0.5
    ambient: float = 0.1
    diffuse: float = 0.9
    distance: tuple[float, float] = (0.8, 1.5)
    plain_backdrops: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, SHARE, "albedo_until", "diffuse_probability", "textureless_probability")
        check_range(self, SHARE, "plain_backdrops")
        check_range(self, NOT_NEGATIVE, "ambient", "diffuse")
        check_span(self, POSITIVE, "distance")


def sample_lighting(
    key: Key[Array, ""],
    camera_position: Float[Array, "3"],
    step: ScalarLike,
    steps: int,
    config: LightingConfig,
) -> Lighting:
    """One random light: direction from N(camera position, I), norm uniform (appendix A.2).

    Args:
        key: Random key.
        camera_position: Near which the light falls in.
        step: Of the run, for its beginning without lights.
        steps: Length of the run.
        config: The distribution.
    """
    aside, away, diffuse, bare = draws.rows(jax.random.split(key, 4), 3)
    direction = safe_normalize(camera_position + draws.gaussian(aside))
    distance = draws.between(away[0], *config.distance)
    lit = diffuse[0] < config.diffuse_probability
    lit = lit & (jnp.asarray(step, jnp.float32) >= config.albedo_until * steps)
    bare = bare[0] < config.textureless_probability
    return Lighting(
        position=distance * direction,
        ambient=jnp.where(lit, config.ambient, 1.0),
        diffuse=jnp.where(lit, config.diffuse, 0.0),
        textureless=lit & bare,
    )


def plain_albedo(*views: int) -> Lighting:
    """Ambient light only: a view shows the albedo itself. One light [*views] for each view."""
    one = Lighting(jnp.zeros(3), jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(False))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*views, *x.shape)), one)


def headlight(
    camera_position: Float[Array, "3"], *, ambient: float = 0.35, textureless: bool = False
) -> Lighting:
    """A light above and beside the camera, for looking at results."""
    up = jnp.array([0.0, 0.0, 1.0])
    side = safe_normalize(jnp.cross(up, camera_position))
    position = camera_position + 0.5 * up + 0.5 * side
    return Lighting(
        position, jnp.asarray(ambient), jnp.asarray(1.0 - ambient), jnp.asarray(textureless)
    )


@functools.partial(jax.jit, inline=True)
def lambertian(
    normal: Float[Array, "*batch 3"],
    point: Float[Array, "*batch 3"],
    lighting: Lighting,
) -> Float[Array, "*batch"]:
    """Light received: l_rho max(0, n . (l - mu) / |l - mu|) + l_a (DreamFusion, eq. 4).

    Args:
        normal: Outward unit normals.
        point: Where the surface is, mu.
        lighting: One light for all points, or one per leading axis.
    """
    position = expand_to(lighting.position, point.ndim, tail=1)
    ambient, diffuse = (expand_to(x, point.ndim - 1) for x in (lighting.ambient, lighting.diffuse))
    towards = safe_normalize(position - point)
    cosine = jnp.maximum(jnp.sum(normal * towards, axis=-1), 0.0)
    return diffuse * cosine + ambient


def sample_backdrop(key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape 3"]:
    """A plain background: a grey between 0.3 and 1 with a slight tint.

    Departure: DreamFusion learns an environment map. Random plain backgrounds keep the
    object from hiding in its surroundings, and the embedded prior was trained on them.
    """
    count = math.prod(shape)
    grey, tint = draws.rows(jax.random.split(key), 3 * count)
    grey = draws.between(grey[:count], 0.3, 1.0).reshape(*shape, 1)
    tint = draws.between(tint, -0.1, 0.1).reshape(*shape, 3)
    return jnp.clip(grey + tint, 0.0, 1.0)


def sample_latent_backdrop(
    key: Key[Array, ""], shape: tuple[int, ...] = ()
) -> Float[Array, "*shape 4"]:
    """A plain background of latents, which are about as often as large as these: N(0, 1)."""
    return draws.normal(key, (*shape, LATENT_CHANNELS))

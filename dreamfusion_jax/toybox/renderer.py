"""Sphere tracing: exact pictures of toybox objects, and the truth behind them.

A picture is made of `Layers`, which are linear in the caption's colours: one traced
view serves every main colour, modifier colour and background (`colourise`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera, Rays, cast_rays, sphere_bounds
from dreamfusion_jax.scene.lighting import Lighting, lambertian
from dreamfusion_jax.toybox.shapes import SCENE_RADIUS, Point
from dreamfusion_jax.toybox.world import Scene, solid

Modifier = str | jax.Array | None
"""A modifier as `world.solid` takes it."""

_STEPS = 56
_HIT = 2e-3
"""Distance below which a ray has arrived; a 64-pixel image has pixels of 2e-2."""


@pytree
class Layers:
    """An anti-aliased view of an object before it is coloured.

    Attributes:
        coefficients: Shaded `Material` coefficients (main, accent, red, green, blue),
            premultiplied by `alpha`.
        alpha: Share of the pixel that the object covers.
    """

    coefficients: Float[Array, "*batch H W 5"]
    alpha: Float[Array, "*batch H W"]


@pytree
class Truth:
    """What the renderer knows about a view, without anti-aliasing.

    Attributes:
        albedo: Colour without shading; zero where nothing is hit.
        normal: Outward unit normal, world frame; zero where nothing is hit.
        depth: Distance along the ray; infinite where nothing is hit.
        silhouette: Whether the pixel's centre sees the object.
    """

    albedo: Float[Array, "*batch H W 3"]
    normal: Float[Array, "*batch H W 3"]
    depth: Float[Array, "*batch H W"]
    silhouette: Bool[Array, "*batch H W"]


def _split(x: jax.Array) -> Point:
    return x[..., 0], x[..., 1], x[..., 2]


def _distance(category: str, modifier: Modifier, p: Point) -> jax.Array:
    return solid(category, modifier, p)[0]


def trace(
    category: str, modifier: Modifier, rays: Rays
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Sphere tracing (Hart 1996): steps by the signed distance until it vanishes.

    Args:
        category: What to trace.
        modifier: See `world.solid`.
        rays: Unit directions.

    Returns:
        Distance along each ray at which it stopped, and whether that is a hit.
    """
    origin, direction = _split(rays.origin), _split(rays.direction)
    near, far = sphere_bounds(rays, SCENE_RADIUS)

    def step(_: jax.Array, t: jax.Array) -> jax.Array:
        p = tuple(o + t * d for o, d in zip(origin, direction, strict=True))
        return jnp.minimum(t + _distance(category, modifier, p), far)  # pyright: ignore[reportArgumentType]

    t = jax.lax.fori_loop(0, _STEPS, step, near)
    p = tuple(o + t * d for o, d in zip(origin, direction, strict=True))
    hit = (_distance(category, modifier, p) < _HIT) & (t < far)  # pyright: ignore[reportArgumentType]
    return t, hit


def _surface(
    category: str, modifier: Modifier, rays: Rays
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hit, depth, point [..., 3], outward normal [..., 3] and material [..., 5]."""
    depth, hit = trace(category, modifier, rays)
    point = rays.origin + depth[..., None] * rays.direction
    p = _split(point)
    _, pullback, material = jax.vjp(lambda *q: solid(category, modifier, q), *p, has_aux=True)
    gradient = jnp.stack(pullback(jnp.ones_like(depth)), axis=-1)
    normal = gradient / jnp.maximum(jnp.linalg.norm(gradient, axis=-1, keepdims=True), 1e-9)
    return hit, depth, point, normal, jnp.stack(material, axis=-1)


def _pool(x: jax.Array, factor: int) -> jax.Array:
    """Means over blocks of `factor` x `factor` pixels of [*batch, H, W, C]."""
    *batch, height, width, channels = x.shape
    blocks = x.reshape(*batch, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(-4, -2))


def trace_layers(
    category: str,
    modifier: Modifier,
    camera: Camera,
    lighting: Lighting,
    *,
    size: int,
    supersample: int = 2,
) -> Layers:
    """Draws one view (unbatched camera and light; `jax.vmap` for more).

    Args:
        category: What to draw.
        modifier: See `world.solid`.
        camera: One camera.
        lighting: One light.
        size: Height and width of the image.
        supersample: Rays per pixel and axis; their mean is the anti-aliased pixel.

    Returns:
        Layers of [size, size] pixels.
    """
    rays = cast_rays(camera, size * supersample, size * supersample)
    hit, _, point, normal, material = _surface(category, modifier, rays)
    light = lambertian(normal, point, lighting)
    white = jnp.array([0.0, 0.0, 1.0, 1.0, 1.0])
    white = jnp.broadcast_to(white, material.shape)
    material = jnp.where(lighting.textureless, white, material)
    alpha = hit.astype(jnp.float32)[..., None]
    shaded = _pool(jnp.concatenate([material * light[..., None] * alpha, alpha], -1), supersample)
    return Layers(coefficients=shaded[..., :5], alpha=shaded[..., 5])


render_layers = jax.jit(
    trace_layers, static_argnums=(0, 1), static_argnames=("size", "supersample")
)
"""`trace_layers` compiled; the modifier is a name or None."""


def colourise(
    layers: Layers,
    main: Float[Array, "*batch 3"],
    accent: Float[Array, "*batch 3"],
    background: Float[Array, "*batch 3"] | Float[Array, "*batch H W 3"],
) -> Float[Array, "*batch H W 3"]:
    """Fills in the colours and composites over a background.

    Args:
        layers: Views.
        main: Main colour of each view.
        accent: Modifier colour of each view.
        background: One colour, or a picture, behind each view.

    Returns:
        Images in [0, 1].
    """
    c = layers.coefficients
    main, accent, background = (expand_to(x, c.ndim, tail=1) for x in (main, accent, background))
    image = c[..., 2:] + c[..., :1] * main
    image = image + c[..., 1:2] * accent
    image = image + (1.0 - layers.alpha[..., None]) * background
    return jnp.clip(image, 0.0, 1.0)


def draw_truth(
    scene: Scene, cameras: Camera, lights: Lighting, *, size: int, backdrop: float
) -> tuple[Float[np.ndarray, "V H W 3"], Float[np.ndarray, "V H W"]]:
    """Finished pictures of an object, and its share of every pixel.

    Args:
        scene: The object.
        cameras: [V] cameras.
        lights: [V] lights.
        size: Height and width of the pictures.
        backdrop: Grey behind the object.
    """
    layers = _draw_layers(scene.category, scene.modifier, cameras, lights, size=size)
    main, accent = (jnp.broadcast_to(jnp.asarray(c), cameras.position.shape) for c in scene.palette)
    colours = colourise(layers, main, accent, jnp.full_like(main, backdrop))
    return np.asarray(colours), np.asarray(layers.alpha)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("size",))
def _draw_layers(
    category: str, modifier: str | None, cameras: Camera, lights: Lighting, *, size: int
) -> Layers:
    """`trace_layers` of [V] cameras and lights, in one program."""
    return jax.vmap(lambda c, light: trace_layers(category, modifier, c, light, size=size))(
        cameras, lights
    )


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=("size",))
def render_truth(scene: Scene, camera: Camera, *, size: int) -> Truth:
    """Albedo, normals, depth and silhouette of one view, one ray per pixel.

    Args:
        scene: The object.
        camera: One camera.
        size: Height and width of the images.

    Returns:
        Maps of [size, size] pixels.
    """
    rays = cast_rays(camera, size, size)
    hit, depth, _, normal, material = _surface(scene.category, scene.modifier, rays)
    main, accent = (jnp.asarray(colour)[None, None] for colour in scene.palette)
    albedo = material[..., 2:] + material[..., :1] * main + material[..., 1:2] * accent
    return Truth(
        albedo=jnp.where(hit[..., None], albedo, 0.0),
        normal=jnp.where(hit[..., None], normal, 0.0),
        depth=jnp.where(hit, depth, jnp.inf),
        silhouette=hit,
    )


def occupancy(scene: Scene, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
    """Whether points of the world lie inside the object."""
    return _distance(scene.category, scene.modifier, _split(points)) < 0.0

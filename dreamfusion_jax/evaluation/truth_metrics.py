"""How near a finished object comes to the truth: measures that need no judge.

An object is known here by its `Portrait`: what `measuring_cameras` see of it. Score
distillation leaves size and place free, so the truth is first scaled and shifted to fit
the portrait's silhouettes; it is never turned, because a wrong front is a fault.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dreamfusion_jax.evaluation.small_parts import surviving
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera, cast_rays, orbit, sphere_bounds
from dreamfusion_jax.scene.lighting import plain_albedo
from dreamfusion_jax.toybox.renderer import colourise, render_layers
from dreamfusion_jax.toybox.world import COLOURS, Scene

AZIMUTHS = 8
"""Views on each of the two rings of `measuring_cameras`."""

_SPHERE_RADIUS = 0.4
_STEPS = (0.08, 0.04, 0.02, 0.01, 0.005)
_SCALES = (0.2, 2.0)
_MARGIN = 8
"""The margin around the pictures in which the truth is fitted is one part of so many."""

AnyArray = Array | np.ndarray
Silhouettes = Callable[[Camera], Bool[AnyArray, "V H W"]]
"""From cameras [V] to what an object covers in their images."""


@pytree
class Portrait:
    """What is known of an object: its looks from `measuring_cameras`.

    Attributes:
        colour: Albedo without shading, over white.
        opacity: Sum of the rendering weights.
    """

    colour: Float[AnyArray, "V H W 3"]
    opacity: Float[AnyArray, "V H W"]


@pytree
class Similarity:
    """The map x -> scale * x + translation."""

    scale: Float[AnyArray, ""]
    translation: Float[AnyArray, "3"]

    def view(self, camera: Camera) -> Camera:
        """The camera to which an object looks as its image under the map does to `camera`."""
        position = (camera.position - jnp.asarray(self.translation)[None]) / self.scale
        return dataclasses.replace(camera, position=position)


@dataclasses.dataclass(frozen=True)
class Measures:
    """How near an object is to the truth, as that fits it best.

    Attributes:
        iou: Mean overlap of the silhouettes.
        psnr: Of the albedo over white, decibels.
        facing: (e_turned - e) / (e_turned + e), e the squared error of the albedo from the
            truth and e_turned from the truth turned by 180 degrees: 1 for the truth itself,
            0 for two equal faces, negative back to front.
        colour: The nearest name to the mean albedo where the truth wears its main colour;
            None where the object has nothing there.
        opacity: Mean over the pixels.
        haze: Share of the opacity in pixels that are neither clear nor solid:
            sum o (1 - o) / sum o.
        small_parts: Share of the pixels of small parts that are there, see `small_parts`; None
            where the truth has none.
    """

    iou: float
    psnr: float
    facing: float
    colour: str | None
    opacity: float
    haze: float
    small_parts: float | None


@jax.jit
def measuring_cameras() -> Camera:
    """Sixteen cameras: eight around at 15 degrees of elevation, eight between them at 40."""
    low = orbit(AZIMUTHS, math.radians(15.0), 1.3, 1.1, azimuth=math.pi / AZIMUTHS)
    high = orbit(AZIMUTHS, math.radians(40.0), 1.3, 1.1)
    return jax.tree.map(lambda *x: jnp.concatenate(x), low, high)


def psnr(image: Float[AnyArray, "*shape"], truth: Float[AnyArray, "*shape"]) -> float:
    """Peak signal-to-noise ratio -10 log10 mean (image - truth)^2, decibels; inf if equal."""
    error = float(np.mean((np.asarray(image) - np.asarray(truth)) ** 2))
    return -10 * math.log10(error) if error > 0 else math.inf


def silhouette_iou(
    a: Bool[AnyArray, "*batch H W"], b: Bool[AnyArray, "*batch H W"]
) -> Float[np.ndarray, "*batch"]:
    """Pixels in both silhouettes over pixels in either; 0 where both are empty."""
    a, b = np.asarray(a), np.asarray(b)
    both, either = (a & b).sum(axis=(-2, -1)), (a | b).sum(axis=(-2, -1))
    return np.asarray(both / np.maximum(either, 1), np.float32)


def similarity_align(
    mover: Silhouettes, target: Bool[AnyArray, "V H W"], cameras: Camera
) -> tuple[Similarity, float]:
    """Scales and shifts an object so that its silhouettes overlap the target's best.

    The start comes from the moments of the silhouettes; a compass search over
    (log scale, translation) with shrinking steps refines the mean overlap.

    Args:
        mover: Silhouettes of the object that is moved.
        target: Silhouettes of the object that stays.
        cameras: [V] cameras of the target's silhouettes.

    Returns:
        What is to be done to the mover, and the mean IoU then.
    """

    def overlap(x: np.ndarray) -> float:
        silhouettes = mover(_similarity(x).view(cameras))
        return float(silhouette_iou(silhouettes, target).mean())

    best = _match_moments(mover(cameras), target, cameras)
    score = overlap(best)
    low, high = np.log(_SCALES)
    directions = np.concatenate([np.eye(4), -np.eye(4)])
    for step in _STEPS:
        improved = score > 0
        while improved:
            improved = False
            for direction in directions:
                trial = best + step * direction
                trial[0] = np.clip(trial[0], low, high)
                value = overlap(trial)
                if value > score:
                    best, score, improved = trial, value, True
    return _similarity(best), score


def _similarity(x: np.ndarray) -> Similarity:
    return Similarity(jnp.asarray(np.exp(x[0]), jnp.float32), jnp.asarray(x[1:], jnp.float32))


def _match_moments(mover: AnyArray, target: AnyArray, cameras: Camera) -> np.ndarray:
    """(log scale, translation) that matches centres and sizes; zeros if either is not seen."""
    found = [_centre_and_size(np.asarray(seen), cameras) for seen in (mover, target)]
    if found[0] is None or found[1] is None:
        return np.zeros(4)
    (centre, size), (goal, goal_size) = found[0], found[1]
    scale = np.clip(goal_size / size, *_SCALES)
    return np.array([np.log(scale), *(goal - scale * centre)])


def _centre_and_size(seen: np.ndarray, cameras: Camera) -> tuple[np.ndarray, float] | None:
    """The point nearest to the rays through the centroids, and the mean size at its distance.

    The size is the root of the silhouette's area, scaled back to world units.
    """
    views = seen.any(axis=(1, 2))
    if views.sum() < 2:
        return None
    directions = np.asarray(cast_rays(cameras, *seen.shape[1:]).direction, np.float64)
    mean = (directions * seen[..., None]).sum(axis=(1, 2))[views]
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    across = np.eye(3) - mean[:, :, None] * mean[:, None, :]
    position = np.asarray(cameras.position, np.float64)[views]
    right = np.einsum("vij,vj->i", across, position)
    centre = np.linalg.lstsq(across.sum(axis=0), right, rcond=None)[0]
    width = np.sqrt(seen.sum(axis=(1, 2))[views]) / seen.shape[2]
    distance = np.linalg.norm(position - centre, axis=-1)
    return centre, float((width * distance / np.asarray(cameras.focal)[views]).mean())


@functools.partial(jax.jit, static_argnames=("scene", "size"))
def _truth_view(
    scene: Scene, cameras: Camera, *, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Albedo over white, silhouette, and where the material is the main colour itself."""

    def draw(camera: Camera):
        return render_layers(
            scene.category, scene.modifier, camera, plain_albedo(), size=size, supersample=1
        )

    layers = jax.vmap(draw)(cameras)
    main, accent = (jnp.broadcast_to(jnp.asarray(c), cameras.position.shape) for c in scene.palette)
    colour = colourise(layers, main, accent, jnp.ones_like(main))
    return colour, layers.alpha > 0.5, layers.coefficients[..., 0] > 0.9


@functools.partial(jax.jit, static_argnames=("scene", "size"))
def truth_silhouettes(scene: Scene, cameras: Camera, *, size: int) -> Bool[Array, "V H W"]:
    """Which pixel centres see the true object."""
    return _truth_view(scene, cameras, size=size)[1]


@functools.partial(jax.jit, static_argnames="size")
def sphere_silhouettes(cameras: Camera, *, size: int) -> Bool[Array, "V H W"]:
    """Which pixel centres see a sphere of radius 0.4 at the origin."""
    near, far = sphere_bounds(cast_rays(cameras, size, size), _SPHERE_RADIUS)
    return far > near


def truth_portrait(scene: Scene, *, size: int) -> Portrait:
    """The portrait of the true object."""
    colour, silhouette, _ = _truth_view(scene, measuring_cameras(), size=size)
    return Portrait(colour, silhouette.astype(jnp.float32))


def empty_portrait(*, size: int) -> Portrait:
    """The portrait of nothing."""
    views = 2 * AZIMUTHS
    return Portrait(jnp.ones((views, size, size, 3)), jnp.zeros((views, size, size)))


def sphere_portrait(scene: Scene, *, size: int) -> Portrait:
    """The portrait of the sphere that fits the true object best, in its main colour."""
    cameras = measuring_cameras()
    silhouettes = functools.partial(sphere_silhouettes, size=size)
    target = truth_silhouettes(scene, cameras, size=size)
    best, _ = similarity_align(silhouettes, target, cameras)
    seen = silhouettes(best.view(cameras))
    main = jnp.asarray(scene.palette[0])[None, None, None]
    return Portrait(jnp.where(seen[..., None], main, 1.0), seen.astype(jnp.float32))


def turned(cameras: Camera, angle: float) -> Camera:
    """The cameras to which an object looks as it does to `cameras` after a turn around z."""
    cosine, sine = math.cos(angle), math.sin(angle)
    back = jnp.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    full = jax.lax.Precision.HIGHEST
    position = jnp.einsum("ij,...j->...i", back, cameras.position, precision=full)
    rotation = jnp.einsum("ij,...jk->...ik", back, cameras.rotation, precision=full)
    return Camera(position, rotation, cameras.focal)


def nearest_colour(albedo: Float[AnyArray, "3"]) -> str:
    """The name in the palette nearest to an RGB value."""
    distance = {n: np.linalg.norm(np.asarray(albedo) - rgb) for n, rgb in COLOURS.items()}
    return min(distance, key=lambda name: distance[name])


def main_colour(portrait: Portrait, wears_main: Bool[AnyArray, "V H W"]) -> str | None:
    """The nearest name to the portrait's mean albedo where the truth wears its main colour.

    Elsewhere wheels, windows and wood would darken the mean. None if nothing is there.
    """
    opacity = np.asarray(portrait.opacity)
    there = np.asarray(wears_main) & (opacity > 0.5)
    if not there.any():
        return None
    opacity = opacity[there][:, None]
    albedo = (np.asarray(portrait.colour)[there] - (1 - opacity)) / opacity
    return nearest_colour(albedo.mean(axis=0).astype(np.float32))


def measure(scene: Scene, portrait: Portrait) -> Measures:
    """Compares an object with the truth as that fits it best.

    Args:
        scene: The truth.
        portrait: The object; square images of any size.
    """
    cameras, size = measuring_cameras(), portrait.opacity.shape[-1]
    opacity = np.asarray(portrait.opacity)
    # With a margin: what the truth covers beyond the picture counts against it. Fog that fills the
    # picture would otherwise be the silhouette of a truth that is near enough.
    margin = size // _MARGIN
    wide = size + 2 * margin
    fit, iou = similarity_align(
        lambda views: truth_silhouettes(scene, views, size=wide),
        np.pad(opacity > 0.5, ((0, 0), (margin, margin), (margin, margin))),
        dataclasses.replace(cameras, focal=cameras.focal * size / wide),
    )
    colour, silhouette, wears_main = _truth_view(scene, fit.view(cameras), size=size)
    back, _, _ = _truth_view(scene, turned(fit.view(cameras), math.pi), size=size)
    error, error_back = (
        float(np.mean((np.asarray(portrait.colour) - np.asarray(c)) ** 2)) for c in (colour, back)
    )
    total = error + error_back
    return Measures(
        iou=iou,
        psnr=psnr(portrait.colour, colour),
        facing=(error_back - error) / total if total > 0 else 0.0,
        colour=main_colour(portrait, wears_main),
        opacity=float(opacity.mean()),
        haze=float((opacity * (1 - opacity)).sum() / max(opacity.sum(), 1e-9)),
        small_parts=surviving(portrait.colour, opacity, colour, silhouette),
    )

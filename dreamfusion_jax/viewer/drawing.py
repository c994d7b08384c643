"""Pictures of one scene from any camera: a coarse one at once, a fine one when there is time."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.box import Box
from dreamfusion_jax.scene.camera import Camera, Rays, cast_rays
from dreamfusion_jax.scene.image import as_drawn, drawing_box
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.scene.render import SceneModel, ray_bounds, render_rays
from dreamfusion_jax.viewer.baked import RESOLUTION, Baked, bake, hits, march
from dreamfusion_jax.viewer.seen import FAR, Kind, Seen, paint

_QUICK, _CAREFUL = 4096, 1024
"""Rays at once, of a baked scene and of the field; the program may look up between two calls."""

Draw = Callable[[Rays], Seen]


class Interrupted(Exception):
    """A drawing was given up, because nobody waits for it any more."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn view.

    Attributes:
        seen: Of every pixel, NumPy arrays [H, W, ...].
        camera: Where from.
    """

    seen: Seen
    camera: Camera

    def painted(self, kind: Kind, radius: float) -> np.ndarray:
        """The picture [H, W, 3] in bytes of a scene within a radius."""
        distance = float(self.camera.distance)
        return paint(self.seen, kind, (distance - radius, distance + radius))

    @property
    def plane_depth(self) -> Float[np.ndarray, "H W"]:
        """Depth along the line of sight of the middle; `FAR` where nothing is seen."""
        height, width = self.seen.opacity.shape
        ahead = -np.asarray(self.camera.rotation)[:, 2]
        direction = np.asarray(cast_rays(self.camera, height, width).direction)
        depth = self.seen.depth * (direction @ ahead)
        return np.where(self.seen.opacity > 0.5, depth, FAR).astype(np.float32)


class DrawnScene:
    """A scene with the grid that stands for it while something moves.

    Args:
        scene: What is drawn.
        resolution: Of the grid.
    """

    def __init__(self, scene: TrainedScene, resolution: int = RESOLUTION) -> None:
        self.scene = scene
        self.radius = float(scene.model.sampling.radius)
        self.baked: Baked = bake(scene, resolution)

    def quick(self, camera: Camera, lighting: Lighting, height: int, width: int) -> Picture:
        """Draws the baked scene.

        Args:
            camera: One camera; its focal length is in image widths.
            lighting: One light.
            height: Pixels.
            width: Pixels.
        """
        rays = cast_rays(camera, height, width)
        return _assemble(
            camera,
            rays,
            np.asarray(hits(self.baked, rays)),
            lambda part: march(self.baked, part, lighting),
            _QUICK,
        )

    def careful(
        self,
        camera: Camera,
        lighting: Lighting,
        height: int,
        width: int,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Picture:
        """Draws the field itself, a normal at every sample, as `TrainedScene.look` does.

        A latent scene, whose field has no colours, is drawn as it was baked.

        Args:
            camera: See `quick`.
            lighting: See `quick`.
            height: See `quick`.
            width: See `quick`.
            given_up: Asked now and then whether to stop.

        Raises:
            Interrupted: It said so.
        """
        scene = self.scene
        if scene.model.latent:
            return self.quick(camera, lighting, height, width)
        rays = cast_rays(camera, height, width)
        box = drawing_box(scene.model, scene.params, scene.variance)
        near, far = ray_bounds(rays, self.radius, box)
        model = as_drawn(scene.model)

        def draw(part: Rays) -> Seen:
            if given_up():
                raise Interrupted
            return _render(model, scene.params, part, lighting, scene.variance, box)

        return _assemble(camera, rays, np.asarray(far > near), draw, _CAREFUL)


@functools.partial(jax.jit, static_argnames="model")
def _render(
    model: SceneModel,
    params: object,
    rays: Rays,
    lighting: Lighting,
    variance: Array,
    box: Box | None,
) -> Seen:
    one = functools.partial(jax.tree.map, lambda x: x[None])
    got = render_rays(
        model,
        params,
        one(rays),
        one(lighting),
        variance=variance,
        backdrop=jnp.zeros((1, 3)),
        box=box,
    )
    return Seen(
        albedo=got.albedo[0],
        colour=got.colour[0],
        light=got.light[0],
        normal=got.normal[0],
        opacity=got.opacity[0],
        depth=got.depth[0],
    )


def _assemble(camera: Camera, rays: Rays, wanted: np.ndarray, draw: Draw, size: int) -> Picture:
    """Draws only the rays that can see something, so many at once, and puts them in place."""
    height, width = wanted.shape
    at = np.flatnonzero(wanted)
    # As many rays each time, so that one program serves windows of every shape.
    padded = np.resize(at, -(-len(at) // size) * size) if len(at) else at
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, 3), rays)
    parts = [
        draw(jax.tree.map(lambda x, some=some: jnp.asarray(x[some]), flat))
        for some in padded.reshape(-1, size)
    ]
    pixels = height * width
    seen = Seen(
        **{name: np.zeros((pixels, 3), np.float32) for name in ("albedo", "colour", "normal")},
        light=np.zeros(pixels, np.float32),
        opacity=np.zeros(pixels, np.float32),
        depth=np.full(pixels, FAR, np.float32),
    )
    if parts:
        got = jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x])[: len(at)], *parts)
        jax.tree.map(lambda into, values: into.__setitem__(at, values), seen, got)
    shaped = jax.tree.map(lambda x: x.reshape(height, width, *x.shape[1:]), seen)
    return Picture(shaped, camera)

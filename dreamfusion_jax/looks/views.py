"""Looking at a scene: one pass over a view gives colour, shaded, textureless and normals."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from dreamfusion_jax.kept import kept
from dreamfusion_jax.looks.latents import Decoder, decode_view
from dreamfusion_jax.pytree import pytree, unstack
from dreamfusion_jax.scene.box import Box
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.image import as_drawn, drawing_box, render_pixels
from dreamfusion_jax.scene.lighting import Lighting, headlight
from dreamfusion_jax.scene.render import SceneModel

_ROOM = 128 * 128
"""One program draws every view, so many pixels at a time."""

_AT_ONCE = 2
"""Views that are drawn at the same time."""


@pytree
class Looks:
    """The same views [*views, H, W], drawn four ways over a plain backdrop.

    Attributes:
        colour: Albedo, without shading; of a latent scene the decoded picture, cut out.
        shaded: Lit by a light beside the camera.
        textureless: The same light on a white surface.
        normals: (n + 1) / 2, world frame.
        opacity: Sum of the weights.
    """

    colour: Float[Array, "*pixels 3"]
    shaded: Float[Array, "*pixels 3"]
    textureless: Float[Array, "*pixels 3"]
    normals: Float[Array, "*pixels 3"]
    opacity: Float[Array, "*pixels 1"]


def look(
    scene: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting | None = None,
    *,
    size: int,
    variance: Float[Array, ""],
    backdrop: ScalarLike,
    decoder: Decoder | None = None,
    box: Box | None = None,
) -> Looks:
    """Draws one view.

    Args:
        scene: The scene.
        params: Its parameters.
        camera: One camera.
        lighting: One light; None for one above and beside the camera.
        size: Height and width, pixels.
        variance: lambda_Sigma of the finished scene.
        backdrop: Grey behind the object, in the place of the scene's own background.
        decoder: Makes pictures of latent scenes.
        box: See `render_pixels`.

    Raises:
        ValueError: A latent scene without a decoder.
    """
    picture, count = None, size * size
    if scene.latent:
        if decoder is None:
            raise ValueError("a latent scene is looked at through a decoder")
        seen = decode_view(decoder, scene, params, camera, variance=variance, box=box)
        picture = jax.image.resize(seen.picture, (size, size, 3), "linear")
        picture = np.pad(np.asarray(picture).reshape(count, 3), ((0, -count % _ROOM), (0, 0)))
    parts = [
        _look(
            scene,
            params,
            camera,
            lighting,
            None if picture is None else picture[first : first + _ROOM],
            box,
            np.int32(first),
            np.int32(size),
            room=_ROOM,
            variance=variance,
            backdrop=backdrop,
        )
        for first in range(0, count, _ROOM)
    ]

    def picture_of(*pixels: jax.Array) -> jax.Array:
        # Put together and cut by NumPy, for which nothing has to be compiled for each size.
        whole = np.concatenate(pixels)[:count]
        return jax.device_put(whole.reshape(size, size, whole.shape[-1]))

    return jax.tree.map(picture_of, *parts)


@kept("scene", "room")
def _look(
    scene: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting | None,
    picture: Float[Array | np.ndarray, "{room} 3"] | None,
    box: Box | None,
    first: ScalarLike,
    size: ScalarLike,
    *,
    room: int,
    variance: Float[Array, ""],
    backdrop: ScalarLike,
) -> Looks:
    """`look` from pixel `first` on, with the picture in the place of a latent scene's colours."""
    grey = jnp.full(3, backdrop)
    lighting = headlight(camera.position) if lighting is None else lighting
    seen = render_pixels(
        as_drawn(scene),
        params,
        camera,
        lighting,
        height=size,
        width=size,
        first=first,
        room=room,
        variance=variance,
        backdrop=None if scene.latent else grey,
        box=box,
    )
    opacity = seen["opacity"]
    behind = (1.0 - opacity) * grey[None]
    if picture is None:
        colour, shaded = seen["albedo"] + behind, seen["colour"]
    else:
        colour, shaded = opacity * picture + behind, seen["light"] * picture + behind
    return Looks(
        colour=colour,
        shaded=shaded,
        textureless=seen["light"] + behind,
        normals=0.5 * seen["normal"] + 0.5 * opacity + behind,
        opacity=opacity,
    )


def look_around(
    scene: SceneModel,
    params: Params,
    cameras: Camera,
    lighting: Lighting | None = None,
    *,
    size: int,
    variance: Float[Array, ""],
    backdrop: ScalarLike,
    decoder: Decoder | None = None,
) -> Looks:
    """`look` for each of [V] cameras and lights; two at a time, which bounds the memory.

    One alone leaves a CPU's cores idle for a third of its time.
    """
    box = drawing_box(scene, params, variance)

    def draw(view: tuple[Camera, Lighting | None]) -> Looks:
        camera, light = view
        return look(
            scene,
            params,
            camera,
            light,
            size=size,
            variance=variance,
            backdrop=backdrop,
            decoder=decoder,
            box=box,
        )

    first, *others = unstack((cameras, lighting))
    views = [draw(first)]  # Alone: it compiles what all share.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        views += pool.map(draw, others)
    # Put together by NumPy: nothing is to be compiled for each number of views.
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *views)

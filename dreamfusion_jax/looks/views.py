"""Looking at a scene: one pass over a view gives colour, shaded, textureless and normals."""

import dataclasses

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
from dreamfusion_jax.scene.image import drawing_box, render_image
from dreamfusion_jax.scene.lighting import Lighting, headlight
from dreamfusion_jax.scene.render import SceneModel


@pytree
class Looks:
    """The same views, drawn four ways over a plain backdrop.

    Attributes:
        colour: Albedo, without shading; of a latent scene the decoded picture, cut out.
        shaded: Lit by a light beside the camera.
        textureless: The same light on a white surface.
        normals: (n + 1) / 2, world frame.
        opacity: Sum of the weights.
    """

    colour: Float[Array, "*views H W 3"]
    shaded: Float[Array, "*views H W 3"]
    textureless: Float[Array, "*views H W 3"]
    normals: Float[Array, "*views H W 3"]
    opacity: Float[Array, "*views H W 1"]


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
        box: See `render_image`.

    Raises:
        ValueError: A latent scene without a decoder.
    """
    picture = None
    if scene.latent:
        if decoder is None:
            raise ValueError("a latent scene is looked at through a decoder")
        seen = decode_view(decoder, scene, params, camera, variance=variance, box=box)
        picture = jax.image.resize(seen.picture, (size, size, 3), "linear")
    return _look(
        scene,
        params,
        camera,
        lighting,
        picture,
        box,
        size=size,
        variance=variance,
        backdrop=backdrop,
    )


@kept("scene", "size")
def _look(
    scene: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting | None,
    picture: Float[Array, "H W 3"] | None,
    box: Box | None,
    *,
    size: int,
    variance: Float[Array, ""],
    backdrop: ScalarLike,
) -> Looks:
    """`look`, with the picture in the place of a latent scene's colours."""
    grey = jnp.full(3, backdrop)
    lighting = headlight(camera.position) if lighting is None else lighting
    # A normal at every sample, whatever training used: thin haze then blurs them little.
    sampling = dataclasses.replace(scene.sampling, normals="sample")
    seen = render_image(
        dataclasses.replace(scene, sampling=sampling),
        params,
        camera,
        lighting,
        height=size,
        width=size,
        variance=variance,
        backdrop=None if scene.latent else grey,
        box=box,
    )
    opacity = seen["opacity"]
    behind = (1.0 - opacity) * grey[None, None]
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
    """`look` for each of [V] cameras and lights; one at a time, which bounds the memory."""
    box = drawing_box(scene, params, variance)
    views = [
        look(
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
        for camera, light in unstack((cameras, lighting))
    ]
    # Put together by NumPy: nothing is to be compiled for each number of views.
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *views)

"""Looking at a scene: one pass over a view gives colour, shaded, textureless and normals."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from dreamfusion_jax.kept import kept
from dreamfusion_jax.looks.latents import Decoder, decode_view
from dreamfusion_jax.pytree import pytree, stack
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.image import render_image
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

    Raises:
        ValueError: A latent scene without a decoder.
    """
    picture = None
    if scene.latent:
        if decoder is None:
            raise ValueError("a latent scene is looked at through a decoder")
        picture = decode_view(decoder, scene, params, camera, variance=variance).picture
        picture = jax.image.resize(picture, (size, size, 3), "linear")
    lighting = headlight(camera.position) if lighting is None else lighting
    return _look(
        scene, params, camera, lighting, picture, size=size, variance=variance, backdrop=backdrop
    )


@kept("scene", "size")
def _look(
    scene: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting,
    picture: Float[Array, "H W 3"] | None,
    *,
    size: int,
    variance: Float[Array, ""],
    backdrop: ScalarLike,
) -> Looks:
    """`look`, with the picture in the place of a latent scene's colours."""
    grey = jnp.full(3, backdrop)
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
    views = [
        look(
            scene,
            params,
            *jax.tree.map(lambda x, i=i: x[i], (cameras, lighting)),
            size=size,
            variance=variance,
            backdrop=backdrop,
            decoder=decoder,
        )
        for i in range(cameras.focal.shape[0])
    ]
    return stack(views)

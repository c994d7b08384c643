"""Looking at latent scenes: pictures of their views, and colours of their points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.kept import kept
from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.pytree import pytree, stack, unstack
from dreamfusion_jax.scene.box import Box
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.image import drawing_box, render_image
from dreamfusion_jax.scene.lighting import plain_albedo
from dreamfusion_jax.scene.render import SceneModel


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
    """The way from a latent prior's latents to pictures.

    Attributes:
        prior: Its images are latents of height and width `image_size`.
        params: Its parameters.
    """

    prior: Prior
    params: PriorParams


@pytree
class DecodedView:
    """A view of a latent scene.

    Attributes:
        latents: What the scene renders, over its own background.
        opacity: Sum of the weights.
        picture: The decoded latents, in [0, 1].
    """

    latents: Float[Array, "*views h w C"]
    opacity: Float[Array, "*views h w 1"]
    picture: Float[Array, "*views H W 3"]


def decode_view(
    decoder: Decoder,
    scene: SceneModel,
    params: Params,
    camera: Camera,
    *,
    variance: Float[Array, ""],
    box: Box | None = None,
) -> DecodedView:
    """Renders one view at the size of the prior's latents and decodes it; see `render_image`."""
    size = decoder.prior.image_size
    seen = render_image(
        scene, params, camera, plain_albedo(), height=size, width=size, variance=variance, box=box
    )
    picture = _decode(decoder.prior, decoder.params, seen["colour"])
    return DecodedView(seen["colour"], seen["opacity"], picture)


@kept("prior")
def _decode(prior: Prior, params: PriorParams, latents: jax.Array) -> jax.Array:
    picture = prior.decode_image(params, latents[None])[0]
    return jnp.clip(picture.astype(jnp.float32), 0.0, 1.0)


@pytree
class ColourMap:
    """An affine map from latents to colours: a decoder for single points.

    Attributes:
        matrix: From latent to RGB.
        offset: RGB of the latent zero.
    """

    matrix: Float[Array, "C 3"]
    offset: Float[Array, "3"]

    def __call__(self, latents: Float[Array, "*batch C"]) -> Float[Array, "*batch 3"]:
        """Colours in [0, 1]."""
        full = jax.lax.Precision.HIGHEST
        colours = jnp.einsum("...c,cd->...d", latents, self.matrix, precision=full)
        return jnp.clip(colours + expand_to(self.offset, colours.ndim, tail=1), 0, 1)


def fit_colours(views: DecodedView) -> ColourMap:
    """argmin_{A, b} sum_i o_i |z_i A + b - c_i|^2 over the latents z_i of all views.

    c_i is the mean colour of the patch that z_i decodes to; the opacity o_i leaves out the
    background.

    Departure: Latent-NeRF (2211.07600) knows one such map for all scenes, from which it refines
    in RGB. Ours is made for the scene at hand and only colours vertices.
    """
    latents, opacity, picture = (
        np.asarray(x, np.float64) for x in (views.latents, views.opacity, views.picture)
    )
    *lead, height, width, _ = latents.shape
    patch = (picture.shape[-3] // height, picture.shape[-2] // width)
    patches = picture.reshape(*lead, height, patch[0], width, patch[1], 3)
    root = np.sqrt(opacity).reshape(-1, 1)
    z, c = latents.reshape(len(root), -1), patches.mean((-4, -2)).reshape(-1, 3)
    solution, *_ = np.linalg.lstsq(root * np.pad(z, ((0, 0), (0, 1)), constant_values=1), root * c)
    return ColourMap(
        jnp.asarray(solution[:-1], jnp.float32), jnp.asarray(solution[-1], jnp.float32)
    )


def scene_colours(
    decoder: Decoder,
    scene: SceneModel,
    params: Params,
    cameras: Camera,
    *,
    variance: Float[Array, ""],
) -> ColourMap:
    """`fit_colours` to what [V] cameras see."""
    box = drawing_box(scene, params, variance)
    views = [
        decode_view(decoder, scene, params, camera, variance=variance, box=box)
        for camera in unstack(cameras)
    ]
    return fit_colours(stack(views))

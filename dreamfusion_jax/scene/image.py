"""A picture of any size, of which only what can be seen is rendered."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from dreamfusion_jax.scene.box import Box, filled_box
from dreamfusion_jax.scene.camera import Camera, pixel_rays
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.scene.render import SceneModel, behind, ray_bounds, render_rays


def render_image(
    model: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting,
    *,
    height: int,
    width: int,
    variance: Float[Array, ""],
    backdrop: Float[Array, "3"] | None = None,
    box: Box | None = None,
    chunk: int = 512,
) -> dict[str, Float[Array, "H W _"]]:
    """Renders one view of any size; see `render_pixels`.

    Args:
        model: The scene.
        params: Its parameters.
        camera: One camera.
        lighting: One light.
        height: Of the image, pixels.
        width: Of the image, pixels.
        variance: lambda_Sigma.
        backdrop: See `render_rays`.
        box: Of `drawing_box`, where it is known from another view; else it is found.
        chunk: Rays at once; bounds the memory.

    Returns:
        "colour", "albedo" [H, W, C], "normal" [H, W, 3] and "light", "opacity", "depth"
        [H, W, 1].
    """
    seen = render_pixels(
        model,
        params,
        camera,
        lighting,
        height=height,
        width=width,
        room=height * width,
        variance=variance,
        backdrop=backdrop,
        box=box,
        chunk=chunk,
    )
    return {name: x.reshape(height, width, x.shape[-1]) for name, x in seen.items()}


@functools.partial(jax.jit, static_argnames=("model", "room", "chunk"))
def render_pixels(
    model: SceneModel,
    params: Params,
    camera: Camera,
    lighting: Lighting,
    *,
    height: ScalarLike,
    width: ScalarLike,
    room: int,
    variance: Float[Array, ""],
    first: ScalarLike = 0,
    backdrop: Float[Array, "3"] | None = None,
    box: Box | None = None,
    chunk: int = 512,
) -> dict[str, Float[Array, "{room} _"]]:
    """Renders pixels of one view, `chunk` rays at a time, by one program for all sizes.

    Even samples are spread over the box that holds something, and rays beside it cost nothing.

    Args:
        model: The scene.
        params: Its parameters.
        camera: One camera.
        lighting: One light.
        height: Of the image, pixels; need not be known when this is compiled.
        width: Of the image, pixels; likewise.
        room: So many pixels.
        variance: lambda_Sigma.
        first: The first of them, row after row; need not be known either.
        backdrop: See `render_rays`.
        box: Of `drawing_box`, where it is known from another view; else it is found.
        chunk: Rays at once; bounds the memory.

    Returns:
        As `render_image`, pixel after pixel; beyond those of the image it means nothing.
    """
    chunk = min(chunk, room)
    index = jnp.asarray(first, jnp.int32) + jnp.arange(room)
    rays = pixel_rays(camera, index % width, index // width, height, width)
    box = drawing_box(model, params, variance) if box is None else box
    near, far = ray_bounds(rays, model.sampling.radius, box)
    hits = (near < far) & (index < height * width)
    # Those that miss come last, and none of their chunks is drawn.
    order = jnp.pad(jnp.argsort(~hits), (0, -room % chunk), mode="edge")

    behind_all = behind(model, params, rays, backdrop)
    none = jnp.zeros((room, 1))
    colour = jnp.broadcast_to(behind_all, (room, behind_all.shape[-1]))
    empty = {
        "colour": colour,
        "albedo": jnp.zeros_like(colour),
        "normal": jnp.zeros_like(rays.direction),
        "light": none,
        "opacity": none,
        "depth": far[:, None],
    }

    def draw(part: Int[Array, ""], image: dict[str, jax.Array]) -> dict[str, jax.Array]:
        at = jax.lax.dynamic_slice_in_dim(order, part * chunk, chunk)
        some = jax.tree.map(lambda x: x[at], rays)
        seen = render_rays(
            model, params, some, lighting, variance=variance, backdrop=backdrop, box=box
        )
        drawn = {
            "colour": seen.colour,
            "albedo": seen.albedo,
            "normal": seen.normal,
            "light": seen.light[:, None],
            "opacity": seen.opacity[:, None],
            "depth": seen.depth[:, None],
        }
        return {name: image[name].at[at].set(drawn[name]) for name in image}

    parts = (jnp.sum(hits) + chunk - 1) // chunk
    return jax.lax.fori_loop(0, parts, draw, empty)


def as_drawn(model: SceneModel) -> SceneModel:
    """The scene as finished pictures show it, whatever training used.

    A normal at every sample, which thin haze blurs little, and none that jumps between cells. Where
    training samples evenly, two thirds as many samples lie where these have found something: where
    a surface falls between even ones changes from ray to ray, and light shows it as bands.
    """
    sampling = dataclasses.replace(model.sampling, normals="smooth")
    if not sampling.proposals:
        sampling = dataclasses.replace(
            sampling,
            proposals=(sampling.intervals,),
            proposer="field",
            dilation=1.0,  # So far behind a surface that no light is left.
            intervals=max(2, 2 * sampling.intervals // 3),
        )
    return dataclasses.replace(model, sampling=sampling)


@functools.partial(jax.jit, static_argnames="model")
def drawing_box(model: SceneModel, params: Params, variance: Float[Array, ""]) -> Box | None:
    """The box that pictures are drawn within; None where networks find what there is."""
    if model.sampling.networks:
        return None
    return filled_box(model.field, params["field"], variance, model.sampling.radius)

"""A picture of any size, of which only what can be seen is rendered."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dreamfusion_jax.scene.box import Box, filled_box
from dreamfusion_jax.scene.camera import Camera, Rays, cast_rays
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.scene.render import SceneModel, behind, ray_bounds, render_rays


@functools.partial(jax.jit, static_argnames=("model", "height", "width", "chunk"))
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
    """Renders one view of any size, `chunk` rays at a time.

    Even samples are spread over the box that holds something, and rays beside it cost nothing.

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
    count = height * width
    rays = jax.tree.map(lambda x: x.reshape(-1, 3), cast_rays(camera, height, width))
    box = drawing_box(model, params, variance) if box is None else box
    near, far = ray_bounds(rays, model.sampling.radius, box)
    # Those that miss come last, so that whole chunks of them can be left out.
    order = jnp.argsort(near >= far)
    padded = jnp.pad(order, (0, -count % min(chunk, count)), mode="edge")

    def draw(part: Rays, far: jax.Array) -> dict[str, jax.Array]:
        del far
        seen = render_rays(
            model, params, part, lighting, variance=variance, backdrop=backdrop, box=box
        )
        return {
            "colour": seen.colour,
            "albedo": seen.albedo,
            "normal": seen.normal,
            "light": seen.light[:, None],
            "opacity": seen.opacity[:, None],
            "depth": seen.depth[:, None],
        }

    def leave_out(part: Rays, far: jax.Array) -> dict[str, jax.Array]:
        colour = behind(model, params, part, backdrop)
        colour = jnp.broadcast_to(colour, (*far.shape, colour.shape[-1]))
        none, depth = jnp.zeros((*far.shape, 1)), far[:, None]
        return {
            "colour": colour,
            "albedo": jnp.zeros_like(colour),
            "normal": jnp.zeros_like(part.direction),
            "light": none,
            "opacity": none,
            "depth": depth,
        }

    def one(index: Int[Array, " chunk"]) -> dict[str, jax.Array]:
        part, end = jax.tree.map(lambda x: x[index], (rays, far))
        return jax.lax.cond(jnp.any(near[index] < end), draw, leave_out, part, end)

    images = jax.lax.map(one, padded.reshape(-1, min(chunk, count)))
    # Where each pixel has come to.
    place = jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(count))
    return {
        name: image.reshape(-1, image.shape[-1])[place].reshape(height, width, -1)
        for name, image in images.items()
    }


@functools.partial(jax.jit, static_argnames="model")
def drawing_box(model: SceneModel, params: Params, variance: Float[Array, ""]) -> Box | None:
    """The box that pictures are drawn within; None where proposals find what there is."""
    if model.sampling.proposals:
        return None
    return filled_box(model.field, params["field"], variance, model.sampling.radius)

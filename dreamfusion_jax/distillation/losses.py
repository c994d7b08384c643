"""Regularizers of the rendered scene (DreamFusion, appendix A.2)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from dreamfusion_jax.checks import NOT_NEGATIVE, SettingError, check_range
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.intervals import distortion_loss, interlevel_loss
from dreamfusion_jax.scene.render import Rendering
from dreamfusion_jax.schedules import Ramp


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights; the defaults are the paper's.

    Attributes:
        orientation: Of `orientation_loss`, a function of the run's progress.
        opacity: Of `opacity_loss`; the paper's range is 1e-3 to 5e-3.
        interlevel: Of the proposals' loss.
        distortion: Of the distortion loss (mip-NeRF 360), off in the paper.
        entropy: Departure: of `entropy_loss`, a function of the run's progress, off in the paper.

    Raises:
        SettingError: A weight is negative or not finite.
    """

    orientation: Ramp = Ramp(1e-4, 1e-2, 1 / 3)
    opacity: float = 1e-3
    interlevel: float = 1.0
    distortion: float = 0.0
    entropy: Ramp = Ramp(0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "opacity", "interlevel", "distortion")
        for name in ("orientation", "entropy"):
            ramp: Ramp = getattr(self, name)
            if min(ramp.start, ramp.end) < 0.0:
                raise SettingError(self, name, f"{NOT_NEGATIVE} from start to end")


@pytree
class Regularizers:
    """Each loss before its weight, averaged over rays."""

    orientation: Float[Array, ""]
    opacity: Float[Array, ""]
    interlevel: Float[Array, ""]
    distortion: Float[Array, ""]
    entropy: Float[Array, ""]


def orientation_loss(
    weights: Float[Array, "*batch S"],
    normals: Float[Array, "*batch S 3"],
    direction: Float[Array, "*batch 3"],
) -> Float[Array, "*batch"]:
    """sum_i stop_gradient(w_i) max(0, n_i . v)^2 (Ref-NeRF, eq. 11; appendix A.2).

    Args:
        weights: Of the samples.
        normals: Of the samples; those that face away from the camera are punished.
        direction: v, unit, away from the camera.
    """
    away = jnp.maximum(0.0, jnp.sum(normals * direction[..., None, :], axis=-1))
    return jnp.sum(jax.lax.stop_gradient(weights) * away**2, axis=-1)


def opacity_loss(opacity: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """sqrt((sum_i w_i)^2 + 0.01), which keeps empty space empty (appendix A.2)."""
    return jnp.sqrt(opacity**2 + 0.01)


def entropy_loss(opacity: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Binary entropy of the opacity in bits: rays should hit or miss, not fade."""
    p = jnp.clip(opacity, 1e-4, 1 - 1e-4)
    return -(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))


def regularizers(rendering: Rendering, direction: Float[Array, "*batch 3"]) -> Regularizers:
    """Every regularizer of a rendering, a mean over its rays."""
    axes = direction.ndim - 1
    # In a row: XLA unrolls loops as short as the side of a picture.
    rendering, direction = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[axes:]), (rendering, direction)
    )
    interlevel = sum(
        (
            jnp.mean(interlevel_loss(rendering.edges, rendering.weights, *histogram))
            for histogram in rendering.proposals
        ),
        jnp.zeros(()),
    )
    return Regularizers(
        orientation=jnp.mean(orientation_loss(rendering.weights, rendering.normals, direction)),
        opacity=jnp.mean(opacity_loss(rendering.opacity)),
        interlevel=interlevel,
        distortion=jnp.mean(distortion_loss(rendering.edges, rendering.weights)),
        entropy=jnp.mean(entropy_loss(rendering.opacity)),
    )


def weigh(
    values: Regularizers, config: LossConfig, step: ScalarLike, steps: int
) -> Float[Array, ""]:
    """The weighted sum that is added to the loss of distillation, at a step of `steps`."""
    return (
        config.orientation(step, steps) * values.orientation
        + config.opacity * values.opacity
        + config.interlevel * values.interlevel
        + config.distortion * values.distortion
        + config.entropy(step, steps) * values.entropy
    )

"""Volume rendering: from rays to pixels (DreamFusion, section 3.1; mip-NeRF 360, section 3)."""

import dataclasses
import functools
import math
from typing import Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, check_count, check_range
from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.box import Box, box_bounds
from dreamfusion_jax.scene.camera import Rays, sphere_bounds
from dreamfusion_jax.scene.encoding import frustum_moments
from dreamfusion_jax.scene.fields.pieces import in_pieces
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.fields.protocol import Field, Params
from dreamfusion_jax.scene.intervals import anneal, dilate, resample, uniform_edges
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.scene.shading import shade, smooth_normals


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Where along a ray the field is asked.

    Attributes:
        radius: Of the bounding sphere outside which nothing is asked, world units.
        proposals: Intervals of each round of proposal sampling; () samples evenly.
        proposer: What proposes: "networks" of their own, one a round (mip-NeRF 360), or the
            "field" itself, which needs no training (NeRF, 2003.08934, section 5.2).
        intervals: Intervals for the field.
        dilation: Histogram dilation of a round, as a share of the ray's length over the
            product of the numbers of intervals up to that round; `dilation_floor` is added
            to that share (mip-NeRF 360, supplement, 'Dilation').
        dilation_floor: See `dilation`.
        anneal_slope: Of the resampling annealing (mip-NeRF 360, supplement).
        normals: "sample" finds a normal at every sample, as the paper does.
            Departure: "ray" finds one, at the expected depth; several times cheaper. "smooth"
            is "sample" with differences over the cells of a grid in the place of derivatives,
            as pictures are drawn, and as "ray" does.

    Raises:
        SettingError: The radius is not positive, there are fewer than 2 intervals, or
            another number is negative.
    """

    radius: float = 1.4
    proposals: tuple[int, ...] = (64, 64)
    proposer: Literal["networks", "field"] = "networks"
    intervals: int = 32
    dilation: float = 0.5
    dilation_floor: float = 0.0025
    anneal_slope: float = 10.0
    normals: Literal["sample", "ray", "smooth"] = "sample"

    def __post_init__(self) -> None:
        check_range(self, POSITIVE, "radius")
        check_count(self, "proposals", "intervals", least=2)  # See `resample`.
        check_range(self, NOT_NEGATIVE, "dilation", "dilation_floor", "anneal_slope")

    @property
    def networks(self) -> int:
        """How many networks propose."""
        return len(self.proposals) if self.proposer == "networks" else 0


_F = TypeVar("_F", bound=Field)


@dataclasses.dataclass(frozen=True)
class SceneModel(Generic[_F]):
    """Everything of a scene but its parameters.

    Attributes:
        field: Density and albedo.
        sampling: Where along a ray they are asked.
        proposal: The network of each proposal round.
        background: What surrounds the scene; None expects a backdrop colour with each view.

    Raises:
        ValueError: A latent field without a background: a plain backdrop would have to be the
            latent of a plain wall, and only the autoencoder knows that.
    """

    field: _F
    sampling: SamplingConfig = SamplingConfig()
    proposal: ProposalMlp = ProposalMlp()
    background: EnvironmentMap | None = EnvironmentMap()

    def __post_init__(self) -> None:
        if self.latent and self.background is None:
            raise ValueError("a latent scene needs a background of its own")

    @property
    def latent(self) -> bool:
        """Whether renderings are latents, not colours: the field says so."""
        return self.field.latent

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters: {"field", "proposals", "background"}."""
        field_key, proposal_key, background_key = jax.random.split(key, 3)
        keys = jax.random.split(proposal_key, self.sampling.networks)
        background = {}
        if self.background is not None:
            background = self.background.init(background_key, latent=self.latent)
        return {
            "field": self.field.init(field_key),
            "proposals": [self.proposal.init(k) for k in keys],
            "background": background,
        }


@pytree
class Rendering:
    """What was seen along rays [*batch].

    Attributes:
        colour: Lit colour over the background. Latents take no light: C = 4 numbers as they are.
        albedo: Accumulated albedo, premultiplied by opacity, no background.
        light: Accumulated light on a white surface, premultiplied by opacity.
        normal: Accumulated normal, premultiplied by opacity.
        opacity: Sum of the weights.
        depth: Expected distance where something is seen; the far end otherwise.
        weights: w_i of each interval.
        edges: Ends of the intervals.
        normals: n_i of each interval.
        proposals: (edges, weights) of each proposal round.
    """

    colour: Float[Array, "*batch C"]
    albedo: Float[Array, "*batch C"]
    light: Float[Array, "*batch"]
    normal: Float[Array, "*batch 3"]
    opacity: Float[Array, "*batch"]
    depth: Float[Array, "*batch"]
    weights: Float[Array, "*batch S"]
    edges: Float[Array, "*batch S+1"]
    normals: Float[Array, "*batch S 3"]
    proposals: tuple[tuple[Array, Array], ...]


def composite(
    density: Float[Array, "*batch S"], edges: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S"]:
    """w_i = alpha_i prod_{j<i} (1 - alpha_j), alpha_i = 1 - exp(-tau_i |d_{i+1} - d_i|).

    DreamFusion, eq. 3, with the product as the exponential of a sum.

    Args:
        density: tau of each interval, per world unit.
        edges: Sorted distances.
    """
    optical = density * jnp.diff(edges)
    # Not the whole sum less the own part: behind a dense interval nothing would be left of it.
    # By a product: on a CPU the scan, its reverse for the gradient, and padding cost ten times it.
    earlier = jnp.triu(jnp.ones((optical.shape[-1],) * 2), k=1)
    before = jnp.matmul(optical, earlier, precision=jax.lax.Precision.HIGHEST)
    return -jnp.expm1(-optical) * jnp.exp(-before)


def interval_points(
    rays: Rays, edges: Float[Array, "*batch E"]
) -> tuple[Float[Array, "*batch E-1"], Float[Array, "*batch E-1 3"]]:
    """Mean distance and mean position of the conical frustum of each interval."""
    near, far = edges[..., :-1], edges[..., 1:]
    middle = frustum_moments(near, far, jnp.zeros_like(near))[0]
    # A frustum at the very tip of the cone, with both ends at 0, has no mean but the tip.
    middle = jnp.where(far > 0, middle, 0.0)
    return middle, rays.origin[..., None, :] + middle[..., None] * rays.direction[..., None, :]


def ray_bounds(
    rays: Rays, radius: float, box: Box | None = None
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Distances at which rays enter and leave the sphere and the box; equal where they miss it."""
    near, far = sphere_bounds(rays, radius)
    if box is None:
        return near, far
    enter, leave = box_bounds(rays, box)
    enter, leave = jnp.maximum(near, enter), jnp.minimum(far, leave)
    hits = enter < leave
    return jnp.where(hits, enter, far), jnp.where(hits, leave, far)


def sample_intervals(
    model: SceneModel,
    params: Params,
    rays: Rays,
    *,
    variance: Float[Array, ""],
    key: Key[Array, ""] | None,
    train_fraction: Float[Array, ""],
    box: Box | None = None,
) -> tuple[Float[Array, "*batch E"], tuple[tuple[Array, Array], ...]]:
    """Proposal sampling with annealing and dilation (mip-NeRF 360, section 3).

    Args:
        model: The scene.
        params: Its parameters.
        rays: Where to look.
        variance: lambda_Sigma.
        key: Of the whole-ray jitter; None places samples without it.
        train_fraction: Of the training that has passed, for the annealing.
        box: Outside of which nothing is asked; None for the sphere alone.

    Returns:
        Edges of the field's intervals, and each network's histogram for the interlevel loss.
    """
    config = model.sampling
    near, far = ray_bounds(rays, config.radius, box)
    edges, histograms = uniform_edges(near, far, 1), []
    weights = jnp.ones((*near.shape, 1))
    counts = (*config.proposals, config.intervals)
    for level, count in enumerate(counts):
        if level > 0:
            share = config.dilation_floor + config.dilation / math.prod(counts[:level])
            edges, weights = dilate(edges, weights, share * (far - near), near, far)
            # The floor keeps every place reachable and the power's value finite at zero.
            weights = anneal(
                jax.lax.stop_gradient(weights) + 1e-5, train_fraction, config.anneal_slope
            )
        jitter = None if key is None else jax.random.fold_in(key, level)
        edges = resample(jitter, edges, weights, count)
        if level < len(config.proposals):
            _, points = interval_points(rays, edges)
            weights = composite(_proposed_density(model, params, level, points, variance), edges)
            if config.networks:
                histograms.append((edges, weights))
    return edges, tuple(histograms)


def _proposed_density(
    model: SceneModel, params: Params, level: int, points: jax.Array, variance: jax.Array
) -> jax.Array:
    spread = jnp.broadcast_to(variance, points.shape[:-1])
    if model.sampling.networks:
        ask = functools.partial(model.proposal, params["proposals"][level])
        return in_pieces(ask, points, spread, model.proposal.piece)
    ask = functools.partial(model.field, params["field"])
    return in_pieces(ask, points, spread, model.field.piece)[0]


def render_rays(
    model: SceneModel,
    params: Params,
    rays: Rays,
    lighting: Lighting,
    *,
    variance: Float[Array, ""],
    backdrop: Float[Array, "*views C"] | None = None,
    plain: Bool[Array, "*views"] | None = None,
    key: Key[Array, ""] | None = None,
    train_fraction: Float[Array, ""] | float = 1.0,
    box: Box | None = None,
) -> Rendering:
    """Renders rays.

    Args:
        model: The scene.
        params: Its parameters.
        rays: [*views, ...] rays.
        lighting: One light per view.
        variance: lambda_Sigma, the blur of the field's queries.
        backdrop: A plain background per view, where the scene has none of its own or in its place.
        plain: In which views it is in the place of the scene's own; None for all.
        key: Of the whole-ray jitter; None for deterministic samples.
        train_fraction: Of the training that has passed.
        box: See `sample_intervals`.

    Returns:
        What is seen along each ray.

    Raises:
        ValueError: Neither the scene nor the caller brings a background.
    """
    edges, proposals = sample_intervals(
        model,
        params,
        rays,
        variance=variance,
        key=key,
        train_fraction=jnp.asarray(train_fraction, jnp.float32),
        box=box,
    )
    distance, points = interval_points(rays, edges)
    spread = jnp.broadcast_to(variance, points.shape[:-1])
    field, piece = functools.partial(model.field, params["field"]), model.field.piece
    if model.sampling.normals != "ray":
        step = model.field.cell if model.sampling.normals == "smooth" else None
        density, albedo, normals = in_pieces(
            lambda x, v: smooth_normals(lambda p: field(p, v), x, step), points, spread, piece
        )
        weights = composite(density, edges)
        places = points
    else:
        density, albedo = in_pieces(field, points, spread, piece)
        weights = composite(density, edges)
        normals, places = _ray_normals(model, params, rays, distance, weights, variance)
    opacity = jnp.sum(weights, axis=-1)
    background = behind(model, params, rays, backdrop, plain)
    light = shade(jnp.ones_like(points), normals, places, lighting)[..., 0]
    colours = albedo if model.latent else shade(albedo, normals, places, lighting)
    depth = jnp.sum(weights * distance, axis=-1) / jnp.maximum(opacity, 1e-6)
    normals = jnp.broadcast_to(normals, points.shape)

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(weights[..., None] * values, axis=-2)

    return Rendering(
        colour=total(colours) + (1.0 - opacity[..., None]) * background,
        albedo=total(albedo),
        light=jnp.sum(weights * light, axis=-1),
        normal=total(normals),
        opacity=opacity,
        depth=jnp.where(opacity > 1e-3, depth, edges[..., -1]),
        weights=weights,
        edges=edges,
        normals=normals,
        proposals=proposals,
    )


def _ray_normals(
    model: SceneModel,
    params: Params,
    rays: Rays,
    distance: jax.Array,
    weights: jax.Array,
    variance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One normal and one place a ray, [*batch, 1, 3] each."""
    weights = jax.lax.stop_gradient(weights)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-6)
    depth = jnp.sum(weights * distance, axis=-1, keepdims=True) / total
    place = rays.origin[..., None, :] + depth[..., None] * rays.direction[..., None, :]
    spread = jnp.broadcast_to(variance, place.shape[:-1])

    def ask(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.field(params["field"], points, spread)

    return smooth_normals(ask, place, model.field.cell)[2], place


def behind(
    model: SceneModel,
    params: Params,
    rays: Rays,
    backdrop: Float[Array, "*views C"] | None,
    plain: Bool[Array, "*views"] | None = None,
) -> Float[Array, "*#batch C"]:
    """What rays see where nothing stops them; see `render_rays`.

    Raises:
        ValueError: Neither the scene nor the caller brings a background.
    """
    ndim = rays.direction.ndim
    if backdrop is not None and (plain is None or model.background is None):
        return expand_to(backdrop, ndim, tail=1)
    if model.background is None:
        raise ValueError("this scene has no background of its own: pass a backdrop")
    own = model.background(params["background"], rays.direction, latent=model.latent)
    if backdrop is None or plain is None:
        return own
    return jnp.where(expand_to(plain, ndim), expand_to(backdrop, ndim, tail=1), own)

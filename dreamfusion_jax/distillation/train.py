"""The training step: everything of DreamFusion's figure 3 in one jitted function."""

import dataclasses
import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt32

from dreamfusion_jax.distillation.losses import LossConfig, regularizers, weigh
from dreamfusion_jax.distillation.sds import SdsConfig, distill, sample_time, sds_loss
from dreamfusion_jax.distillation.shampoo import ShampooConfig, paper_learning_rate, shampoo
from dreamfusion_jax.maths import Ramp
from dreamfusion_jax.priors.prior import Prior, PriorParams, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera, CameraConfig, cast_rays, sample_camera
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.lighting import LightingConfig, sample_backdrop, sample_lighting
from dreamfusion_jax.scene.render import Rendering, SceneModel, render_rays

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """Adam (optax) with warm-up and cosine decay.

    Attributes:
        learning_rate: At its highest.
        warm_up: Steps of linear rise.
        final: Share of the highest learning rate that is left at the end.
        b1: Decay of the mean.
        b2: Decay of the mean square.
        eps: Added to the root of the mean square.
    """

    learning_rate: float = 1e-2
    warm_up: int = 20
    final: float = 0.1
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-15


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; the defaults are the paper's (section 3.2, appendix A.2).

    Attributes:
        steps: Length of the run.
        views: Views rendered and scored each step; the paper's 4 devices take one each.
        seed: Of everything random.
        variance: lambda_Sigma, the blur of the field's queries, coarse to fine.
        optimizer: Distributed Shampoo as in the paper, or Adam.
        cameras: Distribution of the cameras.
        lighting: Distribution of the lights.
        prompts: How the prompt follows the camera.
        sds: Score distillation.
        losses: Regularizers.
    """

    steps: int = 15_000
    views: int = 4
    seed: int = 0
    variance: Ramp = Ramp(5e-2, 2e-3, 5000)
    optimizer: ShampooConfig | AdamConfig = ShampooConfig()
    cameras: CameraConfig = CameraConfig()
    lighting: LightingConfig = LightingConfig()
    prompts: PromptConfig = PromptConfig()
    sds: SdsConfig = SdsConfig()
    losses: LossConfig = LossConfig()


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained and what judges it, without the parameters of either.

    Attributes:
        scene: Field, background and sampling.
        prior: The diffusion model.
    """

    scene: SceneModel
    prior: Prior


@pytree
class TrainState:
    """All that a run carries from step to step; random keys follow from seed and step.

    Attributes:
        step: Steps done.
        seed: Of the run. An array, so that scenes that differ in it share one program.
        params: Of the scene.
        optimizer: optax state.
    """

    step: Int[Array, ""]
    seed: UInt32[Array, ""]
    params: Params
    optimizer: optax.OptState


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimizer of a run with its learning-rate schedule."""
    kind = config.optimizer
    if isinstance(kind, ShampooConfig):
        warm_up = min(3000, config.steps // 5)  # Shorter runs keep the paper's proportions.
        rate = paper_learning_rate(warmup_steps=warm_up, total_steps=config.steps)
        return shampoo(rate, kind)
    peak = kind.learning_rate
    warm_up = min(kind.warm_up, config.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warm_up else peak, peak, warm_up, config.steps, kind.final * peak
    )
    return optax.adam(rate, kind.b1, kind.b2, kind.eps)


def init_state(model: Model, config: TrainConfig) -> TrainState:
    """A fresh scene and optimizer state, from the seed."""
    seed = jnp.asarray(config.seed % 2**32, jnp.uint32)
    params = model.scene.init(jax.random.fold_in(jax.random.key(seed), 2**31 - 1))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=seed,
        params=params,
        optimizer=make_optimizer(config).init(params),
    )


def step_keys(seed: UInt32[Array, ""], step: Int[Array, ""]) -> dict[str, Key[Array, ""]]:
    """Named random keys of a step; a resumed run derives the same ones."""
    names = ("camera", "light", "backdrop", "jitter", "time", "noise")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), len(names))
    return dict(zip(names, keys, strict=True))


def sample_view(keys: dict[str, Key[Array, ""]], step: Array, config: TrainConfig) -> View:
    """Random cameras, lights and backdrops of a step, [views]."""
    cameras = jax.random.split(keys["camera"], config.views)
    camera: Camera = jax.vmap(lambda k: sample_camera(k, config.cameras))(cameras)
    lights = jax.random.split(keys["light"], config.views)
    lighting = jax.vmap(lambda k, p: sample_lighting(k, p, step, config.lighting))(
        lights, camera.position
    )
    return View(camera, lighting, sample_backdrop(keys["backdrop"], (config.views,)))


def render_view(
    scene: SceneModel,
    params: Params,
    view: View,
    *,
    size: int,
    variance: Float[Array, ""],
    key: Key[Array, ""],
    train_fraction: Float[Array, ""],
) -> tuple[Rendering, Float[Array, "V H W 3"]]:
    """Renders each view at the prior's size; also returns the ray directions."""
    rays = cast_rays(view.camera, size, size)
    backdrop = view.backdrop if scene.background is None else None
    rendering = render_rays(
        scene,
        params,
        rays,
        view.lighting,
        variance=variance,
        backdrop=backdrop,
        key=key,
        train_fraction=train_fraction,
    )
    return rendering, rays.direction


def _lay_out(tree: _T, mesh: Mesh | None, *axes: str) -> _T:
    """Spreads the leading axis of arrays over devices; replicates without `axes`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(*axes)))


@functools.partial(jax.jit, static_argnames=("model", "config", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    prior_params: PriorParams,
    text: Text,
    *,
    model: Model,
    config: TrainConfig,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step of DreamFusion (figure 3): render, noise, predict, distil, regularize, update.

    Args:
        state: Donated.
        prior_params: Frozen weights of the prior; an argument, so that they are not
            compiled into the program.
        text: Encoded prompts.
        model: Scene and prior.
        config: Settings.
        mesh: Devices that share the views, as in the paper (see `devices.make_mesh`).

    Returns:
        The next state and scalar metrics. "finite" is 0 where the loss or the gradient is
        not finite; the state is then not to be used.
    """
    keys = step_keys(state.seed, state.step)
    step = state.step.astype(jnp.float32)
    view = _lay_out(sample_view(keys, state.step, config), mesh, "view")
    t = _lay_out(sample_time(keys["time"], config.views, step, config.sds), mesh, "view")
    condition = model.prior.condition(text, view, config.prompts)

    def loss_fn(params: Params) -> tuple[Array, dict[str, Array]]:
        rendering, direction = render_view(
            model.scene,
            params,
            view,
            size=model.prior.image_size,
            variance=config.variance(step),
            key=keys["jitter"],
            train_fraction=step / config.steps,
        )
        z = model.prior.encode_image(prior_params, rendering.colour)
        eps = _lay_out(jax.random.normal(keys["noise"], z.shape), mesh, "view")
        distilled = distill(model.prior, prior_params, z, t, eps, condition, config.sds)
        values = regularizers(rendering, direction)
        smoothness = model.scene.field.regularizer(params["field"])
        loss = sds_loss(distilled.residual, z) + weigh(values, config.losses, step) + smoothness
        metrics = {
            "residual": jnp.sqrt(jnp.mean(distilled.residual**2)),
            "opacity": jnp.mean(rendering.opacity),
            "orientation": values.orientation,
            "entropy": values.entropy,
            "interlevel": values.interlevel,
            "smoothness": smoothness,
        }
        return loss, metrics

    (loss, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
        update, optimizer = make_optimizer(config).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    norm = optax.tree.norm(gradient)
    metrics |= {"gradient": norm, "finite": jnp.isfinite(loss + norm).astype(jnp.float32)}
    state = TrainState(state.step + 1, state.seed, params, optimizer)
    return _lay_out(state, mesh), metrics


@functools.partial(jax.jit, static_argnames=("model", "config"), donate_argnames="states")
def train_scenes(
    states: TrainState,
    prior_params: PriorParams,
    texts: Text,
    *,
    model: Model,
    config: TrainConfig,
) -> tuple[TrainState, dict[str, Float[Array, "scenes"]]]:
    """`train_step` for many scenes at once, each with its own state, seed and text.

    Args:
        states: Stacked along a new leading axis; donated.
        prior_params: Shared by all scenes.
        texts: Stacked likewise.
        model: Shared by all scenes.
        config: Shared by all scenes; the seeds are those of the states.
    """
    step = functools.partial(train_step, model=model, config=config)
    return jax.vmap(step, in_axes=(0, None, 0))(states, prior_params, texts)

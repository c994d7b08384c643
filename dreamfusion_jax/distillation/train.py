"""The training step: everything of DreamFusion's figure 3 in one jitted function."""

import dataclasses
import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt32

from dreamfusion_jax import draws
from dreamfusion_jax.checks import NOT_NEGATIVE, SHARE, SettingError, check_count
from dreamfusion_jax.distillation.losses import LossConfig, Regularizers, regularizers, weigh
from dreamfusion_jax.distillation.optimizers import OptimizerConfig, make_optimizer
from dreamfusion_jax.distillation.protocol import (
    Carry,
    Distillation,
    Distilled,
    add_noise,
    residual_loss,
)
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.shampoo import ShampooConfig
from dreamfusion_jax.distillation.time import TimeConfig, sample_time
from dreamfusion_jax.kept import kept
from dreamfusion_jax.priors.prior import Prior, PriorParams, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import CameraConfig, around, cast_rays, sample_camera
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.lighting import (
    LightingConfig,
    sample_backdrop,
    sample_latent_backdrop,
    sample_lighting,
)
from dreamfusion_jax.scene.render import Rendering, SceneModel, render_rays
from dreamfusion_jax.schedules import Ramp

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; the defaults are the paper's (section 3.2, appendix A.2).

    Attributes:
        steps: Length of the run.
        views: Views rendered and scored each step; the paper's 4 devices take one each.
        variance: lambda_Sigma, the blur of the field's queries, coarse to fine.
        optimizer: Distributed Shampoo as in the paper, or Adam.
        cameras: Distribution of the cameras.
        lighting: Distribution of the lights.
        prompts: How the prompt follows the camera.
        time: Distribution of the diffusion times.
        distillation: The kind of score distillation.
        losses: Regularizers.
        sizes: Moments, as fractions of the run, with the height and width that renderings have
            from then on, pixels; before the first, and without any, those of the prior. Only for
            priors that leave their size open, see `stages.stages`.

    Raises:
        SettingError: There are no steps or views, the blur is negative, or the moments are not
            within the run or not in order.
    """

    steps: int = 15_000
    views: int = 4
    variance: Ramp = Ramp(5e-2, 2e-3, 1 / 3)
    optimizer: OptimizerConfig = ShampooConfig()
    cameras: CameraConfig = CameraConfig()
    lighting: LightingConfig = LightingConfig()
    prompts: PromptConfig = PromptConfig()
    time: TimeConfig = TimeConfig()
    distillation: Distillation = Sds()
    losses: LossConfig = LossConfig()
    sizes: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        check_count(self, "steps", "views")
        moments = [moment for moment, _ in self.sizes]
        if moments != sorted(moments) or any(moment not in SHARE for moment in moments):
            raise SettingError(self, "sizes", "moments from 0 to 1 in order, each with a size")
        if min(self.variance.start, self.variance.end) < 0.0:
            raise SettingError(self, "variance", f"{NOT_NEGATIVE} from start to end")


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
        distillation: What the kind of distillation carries; nothing for SDS.
    """

    step: Int[Array, ""]
    seed: UInt32[Array, ""]
    params: Params
    optimizer: optax.OptState
    distillation: Carry


def init_state(model: Model, config: TrainConfig, seed: int) -> TrainState:
    """A fresh scene and optimizer state.

    Args:
        model: What is trained.
        config: Settings.
        seed: Of everything random.
    """
    return _init_state(jnp.asarray(seed % 2**32, jnp.uint32), model=model, config=config)


@kept("model", "config")
def _init_state(number: UInt32[Array, ""], *, model: Model, config: TrainConfig) -> TrainState:
    scene_key, own_key = (
        jax.random.fold_in(jax.random.key(number), 2**31 - past) for past in (1, 2)
    )
    params = model.scene.init(scene_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=number,
        params=params,
        optimizer=make_optimizer(config.optimizer, config.steps).init(params),
        distillation=config.distillation.init(own_key, model.prior),
    )


def step_keys(seed: UInt32[Array, ""], step: Int[Array, ""]) -> dict[str, Key[Array, ""]]:
    """Named random keys of a step; a resumed run derives the same ones."""
    names = ("camera", "light", "backdrop", "jitter", "time", "noise", "distillation")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), len(names))
    return dict(zip(names, keys, strict=True))


def check_groups(config: TrainConfig, prior: Prior) -> None:
    """Refuses a number of views that a prior cannot take.

    Raises:
        ValueError: It is no multiple of the prior's `group`.
    """
    if config.views % prior.group:
        raise ValueError(
            f"views must be a multiple of {prior.group}, which the prior looks at together, "
            f"not {config.views}"
        )


def sample_view(
    keys: dict[str, Key[Array, ""]],
    step: Array,
    config: TrainConfig,
    group: int = 1,
    *,
    latent: bool = False,
) -> View:
    """Random cameras, lights and backdrops of a step, [views].

    Args:
        keys: Of the step.
        step: Of the run.
        config: Settings.
        group: Neighbouring views that are seen together: their cameras stand evenly around, and
            they share their kind of light, where it falls in beside the camera, and backdrop.
        latent: Whether backdrops are latents.
    """
    groups = config.views // group
    cameras = jax.random.split(keys["camera"], groups)
    camera = jax.vmap(lambda k: sample_camera(k, config.cameras))(cameras)
    camera = around(camera, group)
    lights = jax.random.split(keys["light"], groups)[jnp.arange(config.views) // group]
    lighting = jax.vmap(lambda k, p: sample_lighting(k, p, step, config.steps, config.lighting))(
        lights, camera.position
    )
    sample = sample_latent_backdrop if latent else sample_backdrop
    backdrop = jnp.repeat(sample(keys["backdrop"], (groups,)), group, axis=0)
    share, plain = config.lighting.plain_backdrops, None
    if share > 0.0:
        chosen = jax.random.bernoulli(jax.random.fold_in(keys["backdrop"], 1), share, (groups,))
        plain = jnp.repeat(chosen, group)
    return View(camera, lighting, backdrop, plain)


def sample_times(
    keys: dict[str, Key[Array, ""]], step: Array, config: TrainConfig, group: int = 1
) -> Float[Array, "views"]:
    """Random diffusion times of a step; the views of a group share theirs."""
    groups = config.views // group
    t = sample_time(keys["time"], groups, step, config.steps, config.time)
    return jnp.repeat(t, group)


def render_view(
    scene: SceneModel,
    params: Params,
    view: View,
    *,
    size: int,
    variance: Float[Array, ""],
    key: Key[Array, ""] | None,
    train_fraction: Float[Array, ""],
) -> tuple[Rendering, Float[Array, "V H W 3"]]:
    """Renders each view at the prior's size; also returns the ray directions."""
    rays = cast_rays(view.camera, size, size)
    # Pixels in a row: XLA unrolls loops as short as the side of a picture.
    row = jax.tree.map(lambda x: x.reshape(len(x), size * size, 3), rays)
    own = scene.background is not None and view.plain is None
    backdrop = None if own else view.backdrop
    rendering = render_rays(
        scene,
        params,
        row,
        view.lighting,
        variance=variance,
        backdrop=backdrop,
        plain=view.plain,
        key=key,
        train_fraction=train_fraction,
    )
    rendering = jax.tree.map(lambda x: x.reshape(len(x), size, size, *x.shape[2:]), rendering)
    return rendering, rays.direction


def _summarize(
    rendering: Rendering, distilled: Distilled, values: Regularizers, smoothness: Array
) -> dict[str, Float[Array, ""]]:
    """The metrics of a step."""
    return {
        "residual": jnp.sqrt(jnp.mean(distilled.residual**2)),
        "opacity": jnp.mean(rendering.opacity),
        "orientation": values.orientation,
        "entropy": values.entropy,
        "interlevel": values.interlevel,
        "smoothness": smoothness,
    }


def _lay_out(tree: _T, mesh: Mesh | None, *axes: str) -> _T:
    """Spreads the leading axis of arrays over devices; replicates without `axes`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(*axes)))


@kept("model", "config", "mesh", donate="state")
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
        mesh: Devices that share the views, as in the paper, and perhaps the prior's weights
            (see `sharing.make_mesh`); `sharing.replicate` puts the other arguments on them.

    Returns:
        The next state and scalar metrics. "finite" is 0 where the loss or the gradient is
        not finite; the state is then not to be used.
    """
    keys = step_keys(state.seed, state.step)
    step = state.step.astype(jnp.float32)
    group = model.prior.group
    view = sample_view(keys, state.step, config, group, latent=model.scene.latent)
    view = _lay_out(view, mesh, "view")
    t = _lay_out(sample_times(keys, step, config, group), mesh, "view")
    condition = model.prior.condition(text, view, config.prompts)

    def loss_fn(params: Params, own: Any) -> tuple[Array, tuple[Distilled, dict[str, Array]]]:
        rendering, direction = render_view(
            model.scene,
            params,
            view,
            size=model.prior.image_size,
            variance=config.variance(step, config.steps),
            key=keys["jitter"],
            train_fraction=step / config.steps,
        )
        z = model.prior.encode_image(prior_params, rendering.colour)
        eps = _lay_out(draws.normal(keys["noise"], z.shape), mesh, "view")
        noised = add_noise(model.prior.schedule, z, eps, t)
        carry = Carry(own, state.distillation.memory)
        distilled = config.distillation(
            carry, model.prior, prior_params, noised, condition, keys["distillation"]
        )
        values = regularizers(rendering, direction)
        smoothness = model.scene.field.regularizer(params["field"])
        penalty = weigh(values, config.losses, step, config.steps)
        loss = residual_loss(distilled.residual, z) + penalty + smoothness + distilled.loss
        return loss, (distilled, _summarize(rendering, distilled, values, smoothness))

    trained = (state.params, state.distillation.params)
    differentiate = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    (loss, (distilled, metrics)), (gradient, to_own) = differentiate(*trained)
    optimizer = make_optimizer(config.optimizer, config.steps)
    update, memory = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    carry = config.distillation.update(state.distillation, to_own, distilled)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(loss + norm + optax.tree.norm(to_own))
    metrics |= {"gradient": norm, "finite": finite.astype(jnp.float32)}
    state = TrainState(state.step + 1, state.seed, params, memory, carry)
    return _lay_out(state, mesh), metrics


@kept("model", "config", "mesh", donate="states")
def train_scenes(
    states: TrainState,
    prior_params: PriorParams,
    texts: Text,
    *,
    model: Model,
    config: TrainConfig,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, "scenes"]]]:
    """`train_step` for many scenes at once, each with its own state, seed and text.

    Args:
        states: Stacked along a new leading axis; donated.
        prior_params: Shared by all scenes.
        texts: Stacked likewise.
        model: Shared by all scenes.
        config: Shared by all scenes; the seeds are those of the states.
        mesh: Devices that share the scenes, and the views of each (see `sharing.make_mesh`).
    """
    step = functools.partial(train_step, model=model, config=config, mesh=mesh)
    axis = None if mesh is None else "scene"
    every = jax.vmap(step, in_axes=(0, None, 0), spmd_axis_name=axis)
    return every(states, prior_params, texts)

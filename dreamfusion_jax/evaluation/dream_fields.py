"""A baseline in the manner of Dream Fields (2112.01455): a judge's score, climbed directly.

The scene, cameras, lights and regularizers are those of score distillation; what is followed is
the gradient of a judge's score of the caption, through the renderer. In the paper such objects
please CLIP in colour and have no shape. The judge should not be the one that scores them.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from dreamfusion_jax.distillation.losses import regularizers, weigh
from dreamfusion_jax.distillation.optimizers import make_optimizer
from dreamfusion_jax.distillation.protocol import Carry
from dreamfusion_jax.distillation.train import (
    TrainConfig,
    TrainState,
    render_view,
    sample_view,
    step_keys,
)
from dreamfusion_jax.evaluation.caption_judge import JudgeScorer, Score
from dreamfusion_jax.evaluation.judge import Judge, Params
from dreamfusion_jax.presets import RunConfig
from dreamfusion_jax.runs.loop import Values, iterate
from dreamfusion_jax.runs.run import slug
from dreamfusion_jax.runs.trained_scene import SUFFIX, TrainedScene
from dreamfusion_jax.scene.render import SceneModel


def make_baseline(
    folder: Path, prompt: str, seed: int, config: RunConfig, judge: Judge, params: Params
) -> TrainedScene:
    """Trains a scene whose pictures a judge takes for what the prompt says.

    Args:
        folder: Gets a file for the scene; one that is there is read instead.
        prompt: A caption that the judge knows.
        seed: Of everything random.
        config: Scene and training, without the distillation.
        judge: Whose score is climbed.
        params: Its parameters.

    Raises:
        ValueError: The judge cannot tell the prompt.
        OSError: The file cannot be written.
    """
    path = folder / f"{slug(prompt)}-seed{seed}{SUFFIX}"
    if path.exists():
        return TrainedScene.load(path)
    score = JudgeScorer(judge, params).score_of([prompt])
    train = config.train
    number = jnp.asarray(seed, jnp.uint32)
    fresh = config.scene.init(jax.random.fold_in(jax.random.key(number), 2**31 - 1))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=number,
        params=fresh,
        optimizer=make_optimizer(train.optimizer, train.steps).init(fresh),
        distillation=Carry(params={}, memory={}),
    )
    advance = functools.partial(
        _step, score=score, size=judge.config.image_size, scene=config.scene, train=train
    )
    state = iterate(advance, state, first=0, total=train.steps)
    about = {"prompt": prompt, "seed": str(seed), "preset": "dream fields"}
    blur = train.variance.at_end(train.steps)
    scene = TrainedScene(config.scene, state.params, blur, about=about)
    folder.mkdir(parents=True, exist_ok=True)
    scene.save(path)
    return scene


@functools.partial(jax.jit, donate_argnums=0, static_argnames=("size", "scene", "train"))
def _step(
    state: TrainState, *, score: Score, size: int, scene: SceneModel, train: TrainConfig
) -> tuple[TrainState, Values]:
    """One step: render, ask the judge, follow its gradient."""
    keys, step = step_keys(state.seed, state.step), state.step.astype(jnp.float32)
    view = sample_view(keys, state.step, train)

    def loss_fn(params) -> tuple[Array, Array]:
        rendering, direction = render_view(
            scene,
            params,
            view,
            size=size,
            variance=train.variance(step, train.steps),
            key=keys["jitter"],
            train_fraction=step / train.steps,
        )
        pleased = jnp.mean(score(jnp.clip(rendering.colour, 0.0, 1.0)))
        penalty = weigh(regularizers(rendering, direction), train.losses, step, train.steps)
        return penalty + scene.field.regularizer(params["field"]) - pleased, pleased

    (_, pleased), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    optimizer = make_optimizer(train.optimizer, train.steps)
    update, memory = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    moved = TrainState(state.step + 1, state.seed, params, memory, state.distillation)
    return moved, {"score": pleased}

"""The training of the judge: its losses, its step, its loop."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamfusion_jax.evaluation.judge import Judge, Verdict, save_judge
from dreamfusion_jax.evaluation.judge_data import JudgeTraining, Labels, augment, draw
from dreamfusion_jax.evaluation.judge_exam import open_bank
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.runs.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.runs.loop import Moment, Values, iterate, stop_on_signals
from dreamfusion_jax.toybox.pictures import Numbers, Paints, paint
from dreamfusion_jax.toybox.tokenizer import WordIds, build_tokenizer
from dreamfusion_jax.toybox.training.data import Optimization, learning_rate
from dreamfusion_jax.toybox.training.feed import drawn_ahead


@pytree
class State:
    """All that changes; random keys follow from seed and step."""

    step: jax.Array
    params: Any
    ema: Any
    optimizer: optax.OptState


def naming_loss(verdict: Verdict, labels: Labels) -> jax.Array:
    """Cross-entropies of category, colour, view, modifier and its colour, where there are such."""

    def entropy(logits: jax.Array | None, answer: Numbers, asked: Numbers) -> jax.Array | float:
        if logits is None:  # A judge that knows no modifiers is not asked about them.
            return 0.0
        found = optax.softmax_cross_entropy_with_integer_labels(logits, answer)
        return jnp.mean(jnp.where(asked, found, 0.0))

    everywhere = jnp.ones_like(labels.real)
    modified = labels.real & (labels.modifier > 0)
    return jnp.asarray(
        entropy(verdict.category, labels.category, everywhere)
        + entropy(verdict.colour, labels.colour, labels.real)
        + entropy(verdict.view, labels.view, labels.has_front)
        + entropy(verdict.modifier, labels.modifier, labels.real)
        + entropy(verdict.modifier_colour, labels.modifier_colour, modified)
    )


def matching_loss(odds: jax.Array, true: Numbers) -> jax.Array:
    """Mean over pictures [B] of the sum over captions [P] of -log p(true or not) (SigLIP)."""
    return jnp.mean(jnp.sum(jax.nn.softplus(jnp.where(true, -odds, odds)), axis=-1))


def make_optimizer() -> optax.GradientTransformation:
    """AdamW at the rate 1; the step multiplies by its rate."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, weight_decay=0.01))


def init_state(training: JudgeTraining) -> State:
    """Fresh parameters, from the seed."""
    params = Judge(training.judge).init(jax.random.key(training.seed))
    mean = jax.tree.map(jnp.copy, params)
    return State(jnp.zeros((), jnp.int32), params, mean, make_optimizer().init(params))


@functools.partial(jax.jit, static_argnames="training", donate_argnames="state")
def train_step(
    state: State, paints: Paints, labels: Labels, *, training: JudgeTraining
) -> tuple[State, jax.Array]:
    """One step of AdamW; returns the loss."""
    key = jax.random.fold_in(jax.random.key(training.seed + 2), state.step)
    images, judge = augment(key, paint(paints)), Judge(training.judge)

    def loss_of(params):
        verdict, vectors = judge.look(params, images)
        odds = judge.compare(params, vectors, jnp.asarray(labels.captions))
        return naming_loss(verdict, labels) + 0.3 * matching_loss(odds, labels.true)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
        update, optimizer = make_optimizer().update(gradient, state.optimizer, state.params)
    config = Optimization(steps=training.steps, learning_rate=training.learning_rate, warm_up=100)
    rate = learning_rate(config, state.step)
    params = jax.tree.map(lambda x, by: x + rate * by, state.params, update)
    ema = optax.incremental_update(params, state.ema, jnp.maximum(0.005, 10 / (state.step + 10)))
    return State(state.step + 1, params, ema, optimizer), loss


def train(training: JudgeTraining, say: Callable[[str], None] = print) -> State:
    """Trains to the last step and writes the judge.

    Args:
        training: What to train.
        say: Takes a line now and then.

    Returns:
        The last state.

    Raises:
        FileNotFoundError: There are no traced views.
        ValueError: The folder is of another training, or the loss was not finite.
        CheckpointError: The saved state cannot be read.
        Stopped: A signal came; the state is saved.
    """
    open_folder(training)
    bank, ids_of = open_bank(training, unseen=False), WordIds(build_tokenizer())
    judge, began, losses = Judge(training.judge), time.perf_counter(), []

    def batch_of(step: int) -> tuple[Paints, Labels]:
        return draw(np.random.default_rng((training.seed, step + 1)), bank, training, ids_of)

    with Checkpointer(training.output) as checkpoints, stop_on_signals() as stop:
        state = init_state(training)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        first, total = int(state.step), training.steps

        def watch(moment: Moment[State]) -> None:
            losses.append(float(moment.values["loss"]))
            if not (moment.last or moment.stopping or moment.due(training.report_every)):
                return
            if not np.isfinite(losses[-1]):
                raise ValueError(f"the loss is not finite at step {moment.step}")
            checkpoints.save(moment.step, moment.state)
            save_judge(training.output, judge, moment.state.ema)
            done = (moment.step - first) * training.batch_size
            speed = done / (time.perf_counter() - began)
            say(f"step {moment.step} loss {np.mean(losses):.3f} {speed:.0f} pictures/s")
            losses.clear()

        with drawn_ahead(batch_of, first, total) as batches:

            def advance(state: State) -> tuple[State, Values]:
                state, loss = train_step(state, *next(batches), training=training)
                return state, {"loss": loss}

            state = iterate(advance, state, first=first, total=total, observers=[watch], stop=stop)
    save_judge(training.output, judge, state.ema)
    return state


def open_folder(training: JudgeTraining) -> None:
    """Makes the output folder, or makes sure that it is of the same training.

    Raises:
        ValueError: It was begun with other settings.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(training), default=str))
    free = ("output", "bank", "unseen", "report_every")
    decisive = {k: v for k, v in settings.items() if k not in free}
    if not (training.output / "config.json").exists():
        save_config(training.output, decisive)
    elif load_config(training.output) != decisive:
        raise ValueError(f"{training.output} was begun with other settings; choose another")

"""Trains the judge: it names what is on toybox pictures, and compares pictures with captions.

    python -m experiments.draw_bank --folder outputs/bank
    python -m experiments.draw_bank --folder outputs/bank-unseen --chunks 1 --seed 3
    python -m experiments.train_judge

It sees ground-truth renders only, of every category in every colour with and without modifiers
(those that the prior never sees among them), blurred, noisy and tinted a little, so that it
judges the softer objects of score distillation fairly. Empty pictures, shuffled ones and eggs
teach it to say "something else". Beside naming, it learns which captions are true of a picture
(every pair of a batch is a yes or no question: SigLIP, 2303.15343). Stop with Ctrl-C at any
time: the same command goes on from there. Copy judge.json and model.safetensors of the
output into dreamfusion_jax/weights/judge/ to ship them.
"""

import dataclasses
import functools
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from dreamfusion_jax.evaluation.judge import Judge, Verdict, save_judge
from dreamfusion_jax.evaluation.judge_data import JudgeTraining, Labels, augment, draw
from dreamfusion_jax.evaluation.judge_exam import (
    describe,
    examine,
    open_bank,
    passes,
    rank_captions,
)
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.runs.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.runs.loop import Moment, Stopped, Values, iterate, stop_on_signals
from dreamfusion_jax.toybox.pictures import Numbers, Paints, paint
from dreamfusion_jax.toybox.tokenizer import WordIds, build_tokenizer
from dreamfusion_jax.toybox.training.data import Optimization, learning_rate
from experiments.command_line import one_line_errors, say, say_devices


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


def train(training: JudgeTraining) -> State:
    """Trains to the last step and writes the judge.

    Raises:
        FileNotFoundError: There are no traced views.
        ValueError: The folder is of another training, or the loss was not finite.
        CheckpointError: The saved state cannot be read.
    """
    open_folder(training)
    bank, ids_of = open_bank(training, unseen=False), WordIds(build_tokenizer())
    judge, began, losses = Judge(training.judge), time.perf_counter(), []

    def advance(state: State) -> tuple[State, Values]:
        rng = np.random.default_rng((training.seed, int(state.step) + 1))
        paints, labels = draw(rng, bank, training, ids_of)
        state, loss = train_step(state, paints, labels, training=training)
        return state, {"loss": loss}

    with Checkpointer(training.output) as checkpoints, stop_on_signals() as stop:
        state = init_state(training)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        first = int(state.step)

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

        try:
            total = training.steps
            state = iterate(advance, state, first=first, total=total, observers=[watch], stop=stop)
        except Stopped as stopped:
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise SystemExit(128 + stopped.signal) from None
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


def main(argv: list[str] | None = None) -> None:
    """Trains and examines from the command line."""
    training = tyro.cli(JudgeTraining, args=argv, description=__doc__)
    with one_line_errors():
        if min(training.steps, training.batch_size, training.report_every) < 1:
            raise ValueError("--steps, --batch-size and --report-every must be at least 1")
        say_devices()
        state, judge = train(training), Judge(training.judge)
        unseen = open_bank(training, unseen=True)
        found = examine(judge, state.ema, unseen)
        ranking = rank_captions(judge, state.ema, unseen)
        print(describe(found))
        print(f"right caption first of {len(training.judge.categories)} x 10: {ranking:.1%}")
        print(f"good enough: {passes(found, ranking)}; done: {training.output}")


if __name__ == "__main__":
    main()

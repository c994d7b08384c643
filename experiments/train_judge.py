"""Trains the judge: a small classifier of category, colour and view of toybox pictures.

    python -m experiments.train_judge

It sees ground-truth renders only, of the prior's categories in every colour (pairs that the
prior never sees among them), with and without shading, blurred, noisy and tinted a little, so
that it judges the softer objects of score distillation fairly. The world's other categories
and empty pictures teach it to say "something else". Stop with Ctrl-C at any
time: the same command goes on from there. Copy judge.json and model.safetensors of the
output into dreamfusion_jax/weights/judge/ to ship them.
"""

import dataclasses
import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dreamfusion_jax.evaluation.judge import Judge, Params, Verdict, save_judge
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.runs.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.toybox.bank import Bank
from dreamfusion_jax.toybox.training.data import learning_rate
from experiments.command_line import one_line_errors
from experiments.judge_data import Arguments, Labels, augment, draw, load_views, settings_of
from experiments.train_toybox import deferred_interrupt


@pytree
class State:
    """All that changes; random keys follow from seed and step."""

    step: jax.Array
    params: Any
    optimizer: optax.OptState


def loss_of(verdict: Verdict, labels: Labels) -> jax.Array:
    """Cross-entropies of category, colour and, where a thing has a front, view."""
    entropy = optax.softmax_cross_entropy_with_integer_labels
    named = entropy(verdict.category, labels.category) + entropy(verdict.colour, labels.colour)
    return jnp.mean(named + labels.has_front * entropy(verdict.view, labels.view))


def make_optimizer(arguments: Arguments) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay."""
    schedule = functools.partial(learning_rate, settings_of(arguments).optimization)
    return optax.adamw(schedule, weight_decay=0.01)


def init_state(arguments: Arguments) -> State:
    """Fresh parameters, from the seed."""
    params = Judge(arguments.judge).init(jax.random.key(arguments.seed))
    return State(jnp.zeros((), jnp.int32), params, make_optimizer(arguments).init(params))


@functools.partial(jax.jit, static_argnames="arguments", donate_argnames="state")
def train_step(
    state: State, bank: Bank, rows: jax.Array, *, arguments: Arguments
) -> tuple[State, jax.Array]:
    """One step of AdamW on pictures of `rows`; returns the loss."""
    key = jax.random.fold_in(jax.random.key(arguments.seed + 2), state.step)
    row_key, draw_key, augment_key = jax.random.split(key, 3)
    chosen = jax.random.choice(row_key, rows, (arguments.batch_size,))
    images, labels = draw(draw_key, bank, chosen, arguments.judge)
    images, judge = augment(augment_key, images), Judge(arguments.judge)
    loss, gradient = jax.value_and_grad(lambda p: loss_of(judge(p, images), labels))(state.params)
    optimizer = make_optimizer(arguments)
    with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
        update, memory = optimizer.update(gradient, state.optimizer, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, update), memory), loss


@functools.partial(jax.jit, static_argnames="judge")
def _hits(judge: Judge, params: Params, bank: Bank, rows: jax.Array, key: jax.Array):
    images, labels = draw(key, bank, rows, judge.config)
    verdict = judge(params, images)
    right = {
        name: jnp.argmax(getattr(verdict, name), axis=-1) == getattr(labels, name)
        for name in ("category", "colour", "view")
    }
    return right, labels.has_front


def accuracy(judge: Judge, params: Params, bank: Bank, rows: np.ndarray) -> dict[str, float]:
    """Shares of right answers on rows of the bank.

    Returns:
        "category", "colour" and "view" of the judge's own categories, the last where things
        have a front; "something else" of the others. 1 where there is nothing to ask.
    """
    found = []
    for at, chunk in enumerate(np.array_split(rows, max(len(rows) // 250, 1))):
        found.append(_hits(judge, params, bank, jnp.asarray(chunk), jax.random.key(at)))
    right = {name: np.concatenate([r[name] for r, _ in found]) for name in found[0][0]}
    front = np.concatenate([f for _, f in found])
    own = np.asarray(bank.category)[rows] < len(judge.config.categories)
    right |= {
        "something else": right["category"][~own],
        "category": right["category"][own],
        "colour": right["colour"][own],
        "view": right["view"][front],
    }
    return {name: float(hits.mean()) if hits.size else 1.0 for name, hits in right.items()}


def train(arguments: Arguments) -> dict[str, float]:
    """Trains to the last step, writes the judge, and returns its accuracy on unseen views.

    Raises:
        ValueError: The folder is of another training, or the loss was not finite.
        CheckpointError: The saved state cannot be read.
    """
    open_folder(arguments)
    console = Console()
    with console.status("reading or drawing the pictures") as status:
        bank, kept = load_views(
            arguments, lambda done, total: status.update(f"objects {done}/{total}")
        )
    rows = np.arange(bank.category.shape[0])
    seen, unseen = jnp.asarray(rows[~kept]), rows[kept]
    judge = Judge(arguments.judge)
    with Checkpointer(arguments.output) as checkpoints, deferred_interrupt() as interrupted:
        state = init_state(arguments)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        with _progress(console, arguments.steps) as progress:
            for step in range(int(state.step) + 1, arguments.steps + 1):
                state, loss = train_step(state, bank, seen, arguments=arguments)
                last = step == arguments.steps or interrupted()
                if last or step % arguments.report_every == 0:
                    if not jnp.isfinite(loss):
                        raise ValueError(f"the loss is not finite at step {step}")
                    checkpoints.save(step, state)
                    found = accuracy(judge, state.params, bank, unseen[::10])
                    note = f"loss {float(loss):.3f}  {describe(found)}"
                    progress.update(progress.task_ids[0], completed=step, note=note)
                    if not console.is_terminal:
                        console.print(f"step {step} {note}")
                if interrupted():
                    print("stopped; the same command goes on from here", file=sys.stderr)
                    raise SystemExit(130)
    save_judge(arguments.output, judge, state.params)
    return accuracy(judge, state.params, bank, unseen)


def _progress(console: Console, total: int) -> Progress:
    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )
    progress.add_task("", total=total, note="compiling")
    return progress


def describe(found: dict[str, float]) -> str:
    """Accuracies as one line."""
    return ", ".join(f"{name} {value:.1%}" for name, value in found.items())


def open_folder(arguments: Arguments) -> None:
    """Makes the output folder, or makes sure that it is of the same training.

    Raises:
        ValueError: It was begun with other settings.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(arguments), default=str))
    decisive = {k: v for k, v in settings.items() if k not in ("output", "report_every")}
    if not (arguments.output / "config.json").exists():
        save_config(arguments.output, decisive)
    elif load_config(arguments.output) != decisive:
        raise ValueError(f"{arguments.output} was begun with other settings; choose another")


def main(argv: list[str] | None = None) -> None:
    """Trains from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    with one_line_errors():
        if min(arguments.steps, arguments.batch_size, arguments.report_every) < 1:
            raise ValueError("--steps, --batch-size and --report-every must be at least 1")
        if arguments.other_views < 1:
            raise ValueError("--other-views must be at least 1")
        if not 0 < arguments.unseen < arguments.views:
            raise ValueError("--unseen must lie between 0 and --views")
        print(f"on unseen views: {describe(train(arguments))}")
        print(f"done: {arguments.output}")


if __name__ == "__main__":
    main()

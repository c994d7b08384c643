"""Trains the judge: a small classifier of category, colour and view of toybox pictures.

    python -m experiments.train_judge

It sees ground-truth renders only, of the prior's categories in every colour (pairs that the
prior never sees among them), with and without shading, blurred, noisy and tinted a little, so
that it judges the softer objects of score distillation fairly. Stop with Ctrl-C at any
time: the same command goes on from there. Copy judge.json and model.safetensors of the
output into dreamfusion_jax/weights/judge/ to ship them.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dreamfusion_jax.camera import CameraConfig
from dreamfusion_jax.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.lighting import LightingConfig, sample_backdrop
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.toybox.bank import Bank, BankConfig, palette_of
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.judge import Judge, JudgeConfig, Params, Verdict, save_judge
from dreamfusion_jax.toybox.renderer import Layers, colourise
from dreamfusion_jax.toybox.world import CATEGORIES
from experiments.errors import one_line_errors
from experiments.toybox_data import SMALL, Optimization, Settings, learning_rate, load_bank
from experiments.train_toybox import deferred_interrupt

_CAMERAS = CameraConfig(
    elevation=(-10.0, 80.0),
    distance=(1.15, 1.5),
    position_jitter=0.05,
    look_at_std=0.04,
    gaussians="std",
    focal=(1.0, 1.25),
)
_LIGHTING = LightingConfig(
    albedo_steps=0, textureless_probability=0.0, diffuse_probability=0.5, ambient=0.35, diffuse=0.65
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A training of the judge; the defaults are the judge that is shipped.

    Attributes:
        output: Folder of the judge; training goes on from what is found there.
        steps: Length of the training.
        batch_size: Pictures per step.
        learning_rate: At its highest.
        seed: Of everything random; not one of the prior's.
        views: Traced views of each category, without and with each modifier.
        unseen: How many of them are kept from training, to test on.
        report_every: Steps between reports and saved states.
        modifiers: Whether objects with pedestals and hats are drawn as well.
        judge: What it tells apart, and its size.
    """

    output: Path = Path("outputs/toybox-judge")
    steps: int = 2500
    batch_size: int = 96
    learning_rate: float = 1e-3
    seed: int = 20_000
    views: int = 3500
    unseen: int = 100
    report_every: int = 100
    modifiers: bool = False
    judge: JudgeConfig = JudgeConfig(
        categories=SMALL.vocabulary.categories, channels=(24, 48, 96, 160)
    )


@pytree
class State:
    """All that changes; random keys follow from seed and step."""

    step: jax.Array
    params: Any
    optimizer: optax.OptState


@pytree
class Labels:
    """What is on pictures [B]; `has_front` says whether the view can be told."""

    category: jax.Array
    colour: jax.Array
    view: jax.Array
    has_front: jax.Array


def settings_of(arguments: Arguments) -> Settings:
    """What is drawn, in the words of the prior's trainer."""
    rate = arguments.learning_rate
    return Settings(
        output=arguments.output,
        optimization=Optimization(
            steps=arguments.steps, learning_rate=rate, warm_up=100, seed=arguments.seed
        ),
        vocabulary=Vocabulary(
            arguments.judge.categories,
            arguments.judge.colours,
            Vocabulary().modifiers if arguments.modifiers else (),
        ),
        pictures=BankConfig(arguments.judge.image_size, arguments.views, _CAMERAS, _LIGHTING),
    )


def draw(
    key: jax.Array, bank: Bank, rows: jax.Array, config: JudgeConfig
) -> tuple[jax.Array, Labels]:
    """Pictures of rows [B] of the bank in random colours over random plain backdrops."""
    colour_key, accent_key, backdrop_key = jax.random.split(key, 3)
    palette = jnp.asarray(palette_of(Vocabulary(config.categories, config.colours)))
    count = (rows.shape[0],)
    colour = jax.random.randint(colour_key, count, 0, len(config.colours))
    accent = jax.random.randint(accent_key, count, 0, len(config.colours))
    coded = bank.layers[rows].astype(jnp.float32) / 255
    layers = Layers(coefficients=coded[..., :5], alpha=coded[..., 5])
    backdrop = sample_backdrop(backdrop_key, count)
    images = colourise(layers, palette[colour], palette[accent], backdrop)
    fronts = jnp.asarray([CATEGORIES[name].has_front for name in config.categories])
    category = bank.category[rows]
    return images, Labels(category, colour, bank.view[rows], fronts[category])


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Blurs, tints and shifts pictures [B, H, W, 3] a little, and adds noise."""
    keys = jax.random.split(key, 5)
    count = images.shape[0]
    for blur_key in jax.random.split(keys[0], 2):
        # Each pass mixes a picture with its binomial blur, by an amount of its own.
        amount = jax.random.uniform(blur_key, (count, 1, 1, 1))
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        tall = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        soft = (tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) / 4
        images = (1 - amount) * images + amount * soft
    gain = jax.random.uniform(keys[1], (count, 1, 1, 3), minval=0.9, maxval=1.1)
    offset = jax.random.uniform(keys[2], (count, 1, 1, 3), minval=-0.05, maxval=0.05)
    strength = jax.random.uniform(keys[3], (count, 1, 1, 1), maxval=0.06)
    noise = jax.random.normal(keys[4], images.shape)
    return jnp.clip(gain * images + offset + strength * noise, 0.0, 1.0)


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
    update, optimizer = make_optimizer(arguments).update(gradient, state.optimizer, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, update), optimizer), loss


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
    """Shares of right answers on rows of the bank; "view" where things have a front."""
    found = []
    for at, chunk in enumerate(np.array_split(rows, max(len(rows) // 250, 1))):
        found.append(_hits(judge, params, bank, jnp.asarray(chunk), jax.random.key(at)))
    right = {name: np.concatenate([r[name] for r, _ in found]) for name in found[0][0]}
    front = np.concatenate([f for _, f in found])
    right["view"] = right["view"][front]
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
        bank = load_bank(
            settings_of(arguments), lambda done, total: status.update(f"objects {done}/{total}")
        )
    rows = np.arange(bank.category.shape[0])
    kept = rows % arguments.views < arguments.unseen
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
        if not 0 < arguments.unseen < arguments.views:
            raise ValueError("--unseen must lie between 0 and --views")
        print(f"on unseen views: {describe(train(arguments))}")
        print(f"done: {arguments.output}")


if __name__ == "__main__":
    main()

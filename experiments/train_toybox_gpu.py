"""Trains the embedded prior on a GPU machine that has little installed, in calls of minutes.

    python -m experiments.train_toybox_gpu all --minutes 9 --pieces "$OUT"

does it all in one call: traces the views, trains the prior and beside it the judge, and writes
both in pieces. Or one after the other:

    python -m experiments.train_toybox_gpu draw --bank outputs/bank --workers 14
    python -m experiments.train_toybox_gpu train --bank outputs/bank --output outputs/prior
    python -m experiments.train_toybox_gpu judge --bank outputs/bank --judge outputs/judge
    python -m experiments.train_toybox_gpu split --output outputs/prior --pieces "$OUT"

    python -m experiments.train_toybox_gpu join --output outputs/prior --pieces FOLDER

Needs jax, flax, optax, orbax, numpy and transformers. `train` ends by itself before
`--minutes` are over, having saved; the same call goes on. With `--fit`, as in `all`, the training
is complete by then: the learning rate falls to zero at that time. `split` writes a folder without
its state as files of at most 16 MB, `join` puts them together again elsewhere; where the state is
lost, `train --start FOLDER` begins again with those weights.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from experiments.stand_ins import stand_in

stand_in()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from dreamfusion_jax.evaluation.judge_data import JudgeTraining  # noqa: E402
from dreamfusion_jax.evaluation.judge_training import train as train_judge  # noqa: E402
from dreamfusion_jax.runs.loop import Stopped  # noqa: E402
from dreamfusion_jax.toybox.bank import BankConfig, write_views  # noqa: E402
from dreamfusion_jax.toybox.training.compiled import Step, Trial  # noqa: E402
from dreamfusion_jax.toybox.training.data import WHOLE, Optimization, Settings  # noqa: E402
from dreamfusion_jax.toybox.training.loop import Running, Training, open_folder  # noqa: E402
from experiments.kernel_times import kernel_times, told  # noqa: E402

PIECE = 16_000_000
"""Largest size of a piece, bytes."""

MARGIN = 0.4
"""Minutes that `all` keeps for what follows the training."""

PROFILED = 10
"""Steps that `all` times, and of whose kernels it tells how long they take."""


def draw(arguments: argparse.Namespace) -> None:
    """Traces views, each worker a share of the categories; see `experiments.draw_bank`."""
    until = time.monotonic() + 60 * arguments.minutes
    if arguments.worker is None:
        workers = [_also(arguments, "draw", "--worker", str(n)) for n in range(arguments.workers)]
        if any([worker.wait() for worker in workers]):
            raise SystemExit("a worker failed")
        return
    # The same category is not compiled by two of them; and no kind is drawn a second time before
    # each is drawn once, should the time not suffice for all.
    words, config = WHOLE.vocabulary, BankConfig(size=arguments.size)
    for chunk in range(arguments.chunks):
        for category in words.categories[arguments.worker :: arguments.workers]:
            for modifier in (None, *words.modifiers):
                if time.monotonic() > until:
                    print("not all drawn; the same command goes on", flush=True)
                    return
                write_views(arguments.bank, (category, modifier), chunk, arguments.views, config)


def _also(arguments: argparse.Namespace, what: str, *more: str) -> subprocess.Popen:
    """Another of these programs with the same options, sharing the device's memory."""
    program = [sys.executable, "-u", "-m", "experiments.train_toybox_gpu", what]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.Popen([*program, *arguments.words, *more], env=environment)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of a training from the command line."""
    model = dataclasses.replace(
        WHOLE.model,
        image_size=arguments.size,
        block=arguments.block or WHOLE.model.block,
        channels=tuple(arguments.channels or WHOLE.model.channels),
        attention=tuple(bool(x) for x in arguments.attention or WHOLE.model.attention),
        time_width=arguments.time_width or WHOLE.model.time_width,
    )
    return dataclasses.replace(
        WHOLE,
        output=arguments.output,
        bank=arguments.bank,
        start=arguments.start,
        save_every=arguments.save_every,
        model=model,
        optimization=Optimization(
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            warm_up=arguments.warm_up,
            decay=arguments.decay,
        ),
    )


def train(arguments: argparse.Namespace) -> None:
    """Trains until the time is over or all steps are done."""
    _train(settings_of(arguments), running_of(arguments))


def running_of(arguments: argparse.Namespace) -> Running:
    """How to run a training, from the command line."""
    return Running(
        bfloat16=not arguments.float32,
        minutes=arguments.minutes,
        sample_every=0,
        log_every=50,
        fit=arguments.fit,
        workers=arguments.feeders,
    )


def _train(settings: Settings, running: Running, step: Step | None = None) -> None:
    open_folder(settings, running.bfloat16)
    try:
        Training(settings, running, step).run()
    except Stopped as stopped:  # That the time is over is how a call ends.
        print(f"{stopped}; the same call goes on from here", flush=True)


def judge(arguments: argparse.Namespace) -> None:
    """Trains the judge; it is examined elsewhere, on views that it has not seen."""
    began = time.monotonic()
    config = dataclasses.replace(JudgeTraining().judge, image_size=arguments.size)
    training = JudgeTraining(
        output=arguments.judge,
        bank=arguments.bank,
        steps=arguments.judge_steps,
        batch_size=arguments.judge_batch,
        report_every=max(arguments.judge_steps // 10, 1),
        judge=config,
    )
    train_judge(training, lambda line: print(f"judge: {line}", flush=True))
    print(f"judge: {time.monotonic() - began:.0f} s", flush=True)


def everything(arguments: argparse.Namespace) -> None:
    """Traces, trains prior and judge, and writes both in pieces, within the minutes."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)

    # Not while the step is compiled: its kernels are chosen by their speed then.
    failed = _also(arguments, "draw", "--minutes", str(arguments.draw_minutes)).wait()
    say("not all views were traced; going on with those there are" if failed else "views traced")
    settings, running = settings_of(arguments), dataclasses.replace(running_of(arguments), fit=True)
    trial = Trial(settings, jnp.bfloat16 if running.bfloat16 else jnp.float32)
    step, taken = trial.step, trial.take(PROFILED)
    say(f"compiled for {jax.devices()[0].device_kind}; a step takes {1000 * taken:.0f} ms")
    print(told(*kernel_times(lambda: trial.take(PROFILED))), flush=True)
    del trial
    judging = _also(arguments, "judge") if arguments.judge_steps else None
    try:
        left = arguments.minutes - (time.monotonic() - began) / 60 - MARGIN
        # In pieces at every save: the machine may be gone before the end.
        whole = functools.partial(split, pieces=arguments.pieces)
        _train(settings, dataclasses.replace(running, minutes=left, saved=whole), step)
        whole(settings.output)  # One that was complete already has saved nothing.
        say("the prior is trained")
        if judging is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                judging.wait(max(1.0, 60 * arguments.minutes - (time.monotonic() - began)))
                say("the judge is trained")
    finally:
        if judging is not None:
            judging.kill()
            if arguments.judge.exists():
                split(arguments.judge, arguments.pieces)
    say("done")


def split(folder: Path, pieces: Path, size: int = PIECE) -> list[Path]:
    """Writes a folder of a prior or judge as pieces; saved states and banks are left out.

    Args:
        folder: Of the prior or judge.
        pieces: Where to; made if absent.
        size: Most bytes of a piece.

    Returns:
        The pieces, in order: those of a tar file.
    """
    pieces.mkdir(parents=True, exist_ok=True)
    kept = (".json", ".safetensors", ".txt")
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.suffix in kept]
    names = [name for name in names if name.parts[0] not in ("checkpoints", "bank")]
    with io.BytesIO() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                archive.add(folder / name, name.as_posix())
        content = stream.getvalue()
    written = []
    for at in range(0, len(content), size):
        written.append(pieces / f"{folder.name}.tar.{len(written):03d}")
        written[-1].write_bytes(content[at : at + size])
    return written


def join(pieces: Path, folder: Path) -> None:
    """Puts together what `split` wrote of a folder of the same name.

    Raises:
        FileNotFoundError: There are no pieces of it.
        tarfile.TarError: One is missing.
    """
    parts = sorted(pieces.glob(f"{folder.name}.tar.*"))
    if not parts:
        raise FileNotFoundError(f"{pieces} holds no pieces of {folder.name}")
    content = b"".join(part.read_bytes() for part in parts)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line (argparse: tyro may not be there)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("all", "draw", "train", "judge", "split", "join"))
    parser.add_argument("--bank", type=Path, default=Path("outputs/bank"))
    parser.add_argument("--output", type=Path, default=WHOLE.output)
    parser.add_argument("--judge", type=Path, default=JudgeTraining().output)
    parser.add_argument("--pieces", type=Path, default=Path("outputs/pieces"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--size", type=int, default=64, help="of pictures, pixels")
    drawing = parser.add_argument_group("draw")
    drawing.add_argument("--draw-minutes", type=float, default=2.5, help="of `all`, at most")
    drawing.add_argument("--workers", type=int, default=8)
    drawing.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    drawing.add_argument("--chunks", type=int, default=4)
    drawing.add_argument("--views", type=int, default=250, help="in a chunk")
    training = parser.add_argument_group("train")
    training.add_argument("--start", type=Path, help="a prior whose weights to begin with")
    training.add_argument("--steps", type=int, default=8000)
    training.add_argument("--batch-size", type=int, default=2048)
    training.add_argument("--learning-rate", type=float, default=1e-3)
    training.add_argument("--warm-up", type=int, default=200)
    training.add_argument("--decay", type=int, default=2000)
    training.add_argument("--save-every", type=int, default=1000)
    training.add_argument("--fit", action="store_true", help="be complete when time is over")
    training.add_argument("--feeders", type=int, default=8, help="processes that draw batches")
    training.add_argument("--float32", action="store_true")
    training.add_argument("--block", type=int)
    training.add_argument("--channels", type=int, nargs="+")
    training.add_argument("--attention", type=int, nargs="+", help="0 or 1 for each level")
    training.add_argument("--time-width", type=int)
    judging = parser.add_argument_group("judge")
    steps = JudgeTraining().steps
    judging.add_argument("--judge-steps", type=int, default=steps, help="0: no judge in `all`")
    judging.add_argument("--judge-batch", type=int, default=JudgeTraining().batch_size)
    arguments = parser.parse_args(argv)
    arguments.words = argv[1:]
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Does what the command line says."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    programs = {"all": everything, "draw": draw, "train": train, "judge": judge}
    if arguments.what in programs:
        programs[arguments.what](arguments)
    elif arguments.what == "split":
        for piece in split(arguments.output, arguments.pieces):
            print(piece)
    else:
        join(arguments.pieces, arguments.output)


if __name__ == "__main__":
    main()

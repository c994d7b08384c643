"""Trains the embedded prior on a GPU machine that has little installed, in calls of minutes.

    python -m experiments.train_toybox_gpu draw --bank outputs/bank --workers 14
    python -m experiments.train_toybox_gpu train --bank outputs/bank --output outputs/prior
    python -m experiments.train_toybox_gpu split --output outputs/prior --pieces "$OUT"
    python -m experiments.train_toybox_gpu join --output outputs/prior --pieces FOLDER

Needs jax, flax, optax, orbax, numpy and transformers. Every call ends by itself before
`--minutes` are over, having saved; the same call goes on. `split` writes the prior's folder
without the state as files of at most 20 MB, `join` puts them together again elsewhere; where
the state is lost, `train --start FOLDER` begins again with those weights.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.stand_ins import stand_in

stand_in()

from dreamfusion_jax.toybox.bank import BankConfig, kinds_of, write_views  # noqa: E402
from dreamfusion_jax.toybox.training.data import WHOLE, Optimization, Settings  # noqa: E402
from dreamfusion_jax.toybox.training.loop import Running, Training, open_folder  # noqa: E402

PIECE = 20_000_000
"""Largest size of a piece, bytes."""

INDEX = "pieces.json"


def draw(arguments: argparse.Namespace) -> None:
    """Traces views, each worker a share of the kinds of object; see `experiments.draw_bank`."""
    until = time.monotonic() + 60 * arguments.minutes
    if arguments.worker is None:
        # On the host's cores: tracing is compiled once a kind, and a GPU is no help with that.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "experiments.train_toybox_gpu", *sys.argv[1:]]
        workers = [
            subprocess.Popen([*command, "--worker", str(number)], env=environment)
            for number in range(arguments.workers)
        ]
        if any([worker.wait() for worker in workers]):
            raise SystemExit("a worker failed")
        return
    for kind in kinds_of(WHOLE.vocabulary)[arguments.worker :: arguments.workers]:
        for chunk in range(arguments.chunks):
            if time.monotonic() > until:
                print("not all drawn; the same command goes on", flush=True)
                return
            config = BankConfig(size=arguments.size)
            write_views(arguments.bank, kind, chunk, arguments.views, config)


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
    settings = settings_of(arguments)
    running = Running(
        bfloat16=not arguments.float32, minutes=arguments.minutes, sample_every=0, log_every=50
    )
    open_folder(settings, running.bfloat16)
    try:
        Training(settings, running).run()
    except SystemExit as stopped:
        # That the time is over is how a call ends.
        if stopped.code != 130:
            raise


def split(folder: Path, pieces: Path, size: int = PIECE) -> list[Path]:
    """Writes the files of a prior's folder as pieces; states and banks are left out.

    Args:
        folder: Of the prior.
        pieces: Where to; made if absent.
        size: Most bytes of a piece.

    Returns:
        The pieces, and last their index.
    """
    pieces.mkdir(parents=True, exist_ok=True)
    names = ("toybox.json", "model_index.json", "training.json")
    files = [folder / name for name in names if (folder / name).exists()]
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        files += sorted(path for path in (folder / part).rglob("*") if path.is_file())
    index, written = {}, []
    for file in files:
        content, name = file.read_bytes(), file.relative_to(folder).as_posix()
        index[name] = []
        for at in range(0, max(len(content), 1), size):
            piece = pieces / f"piece-{len(written):03d}"
            piece.write_bytes(content[at : at + size])
            written.append(piece)
            index[name].append(piece.name)
    (pieces / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return [*written, pieces / INDEX]


def join(pieces: Path, folder: Path) -> None:
    """Puts together what `split` wrote.

    Raises:
        FileNotFoundError: The index or a piece is missing.
    """
    for name, parts in json.loads((pieces / INDEX).read_text()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join((pieces / part).read_bytes() for part in parts))


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line (argparse: tyro may not be there)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("draw", "train", "split", "join"))
    parser.add_argument("--bank", type=Path, default=Path("outputs/bank"))
    parser.add_argument("--output", type=Path, default=WHOLE.output)
    parser.add_argument("--pieces", type=Path, default=Path("outputs/pieces"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--size", type=int, default=64, help="of pictures, pixels")
    drawing = parser.add_argument_group("draw")
    drawing.add_argument("--workers", type=int, default=8)
    drawing.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    drawing.add_argument("--chunks", type=int, default=4)
    drawing.add_argument("--views", type=int, default=250, help="in a chunk")
    training = parser.add_argument_group("train")
    training.add_argument("--start", type=Path, help="a prior whose weights to begin with")
    training.add_argument("--steps", type=int, default=8000)
    training.add_argument("--batch-size", type=int, default=512)
    training.add_argument("--learning-rate", type=float, default=1e-3)
    training.add_argument("--warm-up", type=int, default=300)
    training.add_argument("--decay", type=int, default=2000)
    training.add_argument("--save-every", type=int, default=1000)
    training.add_argument("--float32", action="store_true")
    training.add_argument("--block", type=int)
    training.add_argument("--channels", type=int, nargs="+")
    training.add_argument("--attention", type=int, nargs="+", help="0 or 1 for each level")
    training.add_argument("--time-width", type=int)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Draws, trains, splits or joins from the command line."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.what == "draw":
        draw(arguments)
    elif arguments.what == "train":
        train(arguments)
    elif arguments.what == "split":
        for piece in split(arguments.output, arguments.pieces):
            print(piece)
    else:
        join(arguments.pieces, arguments.output)


if __name__ == "__main__":
    main()

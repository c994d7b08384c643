"""Traces the views that the training pictures of the embedded prior are coloured from.

    python -m experiments.draw_bank --folder outputs/bank
    python -m experiments.draw_bank --folder outputs/bank --chunks 4 --categories car duck

One chunk of every kind of object at a time, so that a training can begin before the last is
drawn. Chunks that are there already are left alone: stop with Ctrl-C and give the same
command again, or ask for more chunks.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import tyro

from dreamfusion_jax.toybox.bank import BankConfig, kinds_of, write_views
from dreamfusion_jax.toybox.captions import Vocabulary
from experiments.command_line import as_program, one_line_errors, parsed, say_devices


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to trace.

    Attributes:
        folder: Of the bank.
        chunks: How many of each kind of object; a kind is a category with or without a modifier.
        views: Number of views in a chunk.
        vocabulary: Categories and modifiers; those of the whole world unless told.
        pictures: From where, and in which light.
    """

    folder: Path = Path("outputs/bank")
    chunks: int = 4
    views: int = 250
    vocabulary: Annotated[Vocabulary, tyro.conf.arg(name="")] = Vocabulary()
    pictures: Annotated[BankConfig, tyro.conf.arg(name="")] = BankConfig()


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        say_devices()
        kinds = kinds_of(arguments.vocabulary)
        for chunk in range(arguments.chunks):
            for done, kind in enumerate(kinds):
                began = time.perf_counter()
                if write_views(arguments.folder, kind, chunk, arguments.views, arguments.pictures):
                    seconds = time.perf_counter() - began
                    print(
                        f"chunk {chunk}: {done + 1}/{len(kinds)} {kind} {seconds:.1f} s", flush=True
                    )
        print(f"done: {arguments.folder}")


if __name__ == "__main__":
    as_program(main)

"""Makes a page of many runs, and the page of each of them.

    python -m experiments.gallery outputs

The pages open from disk, without a server.
"""

import dataclasses
from pathlib import Path

import tyro

from dreamfusion_jax.pages.gallery import write_gallery
from experiments.again import command_of
from experiments.command_line import as_program, one_line_errors, parsed, say


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to show.

    Attributes:
        folder: Where runs lie, at any depth.
    """

    folder: tyro.conf.Positional[Path] = Path("outputs")


def main(argv: list[str] | None = None) -> None:
    """Writes the pages from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        say(f"page: {write_gallery(arguments.folder, command_of, say)}")


if __name__ == "__main__":
    as_program(main)

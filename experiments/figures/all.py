"""All figures and tables, with an index page.

    python -m experiments.figures.all --output FOLDER
    python -m experiments.figures.all --output FOLDER --small

What is finished is not made again. In full it is about a hundred and twenty objects, three hours of
a CPU core; --small makes everything of one or two objects. With --clip and --captions CLIP judges.
"""

import dataclasses
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dreamfusion_jax.files import write_whole
from experiments.command_line import as_program, say
from experiments.figures import fig2, fig3, fig4, fig6, fig9, gallery, table1
from experiments.figures.making import Making, run
from experiments.scoring import Scoring


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What all of them take.

    Attributes:
        small: Draw each of them of as few objects as it can be drawn of.
        scoring: Who judges.
    """

    small: bool = False
    scoring: Annotated[Scoring, tyro.conf.arg(name="")] = Scoring()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A figure on the index page.

    Attributes:
        title: What it is.
        kind: Its arguments.
        draw: Draws it.
        small: Changes of the arguments that make it as small as can be.
    """

    title: str
    kind: type[Any]
    draw: Callable[[Any], Path]
    small: dict[str, Any]


_PROMPT = "a red car"
ENTRIES = (
    Entry(
        "Figures 1 and 5: two views of each object, with shape and normals",
        gallery.Arguments,
        gallery.draw,
        {"prompts": (_PROMPT,)},
    ),
    Entry(
        "Figure 2: ancestral sampling against score distillation, in two dimensions",
        fig2.Arguments,
        fig2.draw,
        {"seeds": 1},
    ),
    Entry(
        "Figure 3: one step, every picture in between",
        fig3.Arguments,
        fig3.draw,
        {"prompt": _PROMPT},
    ),
    Entry(
        "Figure 4: a prompt refined, each scene started from the one before",
        fig4.Arguments,
        fig4.draw,
        {"prompts": (_PROMPT, "a blue car")},
    ),
    Entry(
        "Figure 6: the ablation",
        fig6.Arguments,
        fig6.draw,
        {"prompts": (_PROMPT,), "seeds": (0,)},
    ),
    Entry(
        "Figure 9: guidance weights by seeds",
        fig9.Arguments,
        fig9.draw,
        {"prompt": _PROMPT, "guidance": (5.0,), "seeds": (0,)},
    ),
    Entry(
        "Table 1: R-Precision, colour and geometry",
        table1.Arguments,
        table1.draw,
        {"prompts": (_PROMPT,), "seeds": (0,), "azimuths": 2},
    ),
)
"""Everything, in the order of the paper."""


def _arguments_of(entry: Entry, arguments: Arguments) -> Any:
    """The entry's own arguments, with those of `all` that it has."""
    given = {field.name for field in dataclasses.fields(entry.kind)}
    default = entry.kind()
    shared = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(arguments)
        if field.name in given and getattr(arguments, field.name) != field.default
    }
    shared["runs"] = arguments.runs or arguments.output / "runs"
    shared["output"] = arguments.output
    return dataclasses.replace(default, **shared, **(entry.small if arguments.small else {}))


def draw(arguments: Arguments) -> Path:
    """Draws everything and writes index.html.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    drawn = []
    for entry in ENTRIES:
        say(f"== {entry.title}")
        drawn.append((entry, entry.draw(_arguments_of(entry, arguments))))
    path = arguments.output / "index.html"
    write_whole(path, _page(drawn).encode())
    return path


def _page(drawn: Sequence[tuple[Entry, Path]]) -> str:
    """The index: a heading, the picture and its files for each."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Figures</title>",
        "<style>body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}</style><h1>Figures</h1>",
    ]
    for entry, path in drawn:
        stem = path.stem
        command = " ".join((entry.draw.__module__, "--help"))
        parts.append(
            f"<h2>{html.escape(entry.title)}</h2><p><img src='{stem}.png' alt=''></p>"
            f"<p><a href='{stem}.pdf'>PDF</a>, <a href='{stem}.json'>numbers</a>; "
            f"<code>python -m {html.escape(command)}</code></p>"
        )
    return "\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

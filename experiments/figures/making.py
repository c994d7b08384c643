"""What the programs of the figures share: with what, from what and where to they draw."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.evaluation.objects import make_objects
from dreamfusion_jax.priors.loading import PriorName
from dreamfusion_jax.runs.run import slug
from experiments.command_line import UsageError, one_line_errors, parsed, say


@dataclasses.dataclass(frozen=True)
class Making:
    """What every figure takes.

    Attributes:
        prior: Which diffusion model is followed; the preset's if not given.
        weights: Other weights for it: a folder, or a repository on the hub.
        preset: Settings that objects are made with.
        steps: Length of each training; the preset's if not given.
        size: Height and width of each drawn view, pixels.
        output: Folder of the figure.
        runs: Folder of the objects, shared by all figures: what is finished there is not made
            again; in "runs" in the figure's folder if not given.
    """

    prior: PriorName | None = None
    weights: str | None = None
    preset: str = "toybox"
    steps: int | None = None
    size: int = 128
    output: Path = Path("outputs/figures")
    runs: Path | None = None

    @property
    def chosen(self) -> presets.Preset:
        """The preset, with another prior and another length where they are given.

        Raises:
            ValueError: There is no such preset, or the length is impossible.
        """
        preset = presets.preset(self.preset)
        changes = {} if self.steps is None else {"train.steps": self.steps}
        return dataclasses.replace(
            preset,
            prior=self.prior or preset.prior,
            config=presets.changed(preset.config, changes),
        )

    def make(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        changes: Mapping[str, object] | None = None,
        name: str = "plain",
        init_from: Path | None = None,
    ) -> tuple[Path, ...]:
        """Makes an object of every prompt with every seed.

        Args:
            prompts: What to make.
            seeds: With which seeds.
            changes: Of the preset, by dotted names.
            name: Of the changes, for the folder.
            init_from: Folder of a run whose scene all of them begin with.

        Returns:
            The runs' folders, those of the first seed first.

        Raises:
            ValueError: A request that cannot be carried out.
        """
        if not prompts or not seeds:
            raise UsageError("--prompts and --seeds must not be empty")
        preset = self.chosen
        changed = presets.changed(preset.config, changes or {})
        length = "" if self.steps is None else f"-{self.steps}-steps"
        model = f"{preset.prior}-{slug(self.weights)}" if self.weights else preset.prior
        folder = (self.runs or self.output / "runs") / f"{model}-{preset.name}{length}"
        return make_objects(
            prompts,
            seeds,
            folder / slug(name),
            dataclasses.replace(preset, config=changed),
            weights=self.weights,
            init_from=init_from,
            say=say,
        )


_Arguments = TypeVar("_Arguments", bound=Making)


def run(
    kind: type[_Arguments],
    draw: Callable[[_Arguments], Path],
    description: str | None,
    argv: list[str] | None,
) -> None:
    """Reads a figure's command line, draws it and says where it is.

    Args:
        kind: Its arguments.
        draw: Draws it.
        description: For the help.
        argv: The command line; the program's own if None.
    """
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(kind, args=argv, description=description))
        if arguments.size < 8:
            raise UsageError(f"--size must be at least 8, not {arguments.size}")
        keep_compiled_programs()
        say(f"done: {draw(arguments)}")

"""Objects to measure: many runs of toybox prompts, made once and then read."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamfusion_jax.presets import Preset
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.runs.files import CONFIG
from dreamfusion_jax.runs.run import LoadedPrior, Run, is_finished, run_folder
from dreamfusion_jax.runs.settings import RunSettings


def make_objects(
    prompts: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    preset: Preset,
    loaded: LoadedPrior | None = None,
    say: Callable[[str], None] = lambda phase: None,
    *,
    weights: str | None = None,
    init_from: Path | None = None,
) -> tuple[Path, ...]:
    """Runs every prompt with every seed, with one prior for all.

    What is finished is left alone, and what was stopped is gone on with.

    Args:
        prompts: What to make.
        seeds: One object of each prompt for each.
        output: Folder of the runs' folders.
        preset: Settings of all of them; what they write is cut down to what is measured.
        loaded: The prior and its parameters; the preset's if not given.
        say: Is told of phases.
        weights: Of the preset's prior; None for the usual ones.
        init_from: Folder of a run whose scene all of them begin with.

    Returns:
        The folders.

    Raises:
        UnknownWordsError: The embedded prior cannot read one of the prompts; nothing is made.
    """
    wanted = {run_folder(output, p, seed): (p, seed) for seed in seeds for p in prompts}
    pending = {folder: each for folder, each in wanted.items() if not is_finished(folder)}
    if pending and loaded is None and preset.prior == "toybox":
        loaded = prior, _ = toybox.load(Path(weights) if weights else toybox.SHIPPED)
        for prompt, _ in pending.values():
            prior.vocabulary.scene(prompt)
    for folder, (prompt, seed) in pending.items():
        say(f"making {folder}")
        settings = RunSettings(
            prompt,
            _brief(preset),
            seed=seed,
            prior=preset.prior,
            weights=weights,
            init_from=str(init_from) if init_from else None,
            preset=preset.name,
        )
        begun = (folder / CONFIG).exists()
        run = Run.resume(folder, loaded) if begun else Run.start(folder, settings, loaded)
        with run:
            if preset.prior != "oracle":  # That is another one for every prompt.
                loaded = run.loaded
            scene = run.train()
            try:
                run.write_results(scene)
            except ValueError as error:  # What is empty has no mesh, and can be measured as well.
                say(f"{folder}: {error}")
    return tuple(wanted)


def _brief(preset: Preset):
    """The measures look at the objects themselves, and need no turntables."""
    least = dataclasses.replace(
        preset.config.output, preview_every=10**9, frames=4, size=64, mesh_texture=0
    )
    return dataclasses.replace(preset.config, output=least)

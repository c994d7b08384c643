"""Many prompts and seeds by one command, as many at once as fit into memory.

    python -m experiments.run --prompts-file prompts.txt --seeds 0 1 2 3

The same command again goes on where it was stopped; see docs/scaling.md.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from dreamfusion_jax.evaluation.held_out import best_by_prior, write_held_out
from dreamfusion_jax.evaluation.watching import Watcher
from dreamfusion_jax.pages.run_page import write_run_page
from dreamfusion_jax.runs.fitting import scenes_that_fit
from dreamfusion_jax.runs.loop import Observer, Stopped, stop_on_signals
from dreamfusion_jax.runs.many import (
    Member,
    Overall,
    Priors,
    Wanted,
    batches,
    train_together,
)
from dreamfusion_jax.runs.progress import Reporter
from dreamfusion_jax.runs.run import Run, Say, is_finished, run_folder
from dreamfusion_jax.runs.tensorboard import TensorBoard
from experiments.again import command_of
from experiments.command_line import UsageError
from experiments.run_options import Arguments, options_named, settings_of
from experiments.splitting import chosen_mesh


def read_prompts(file: Path, shard: str | None = None) -> list[str]:
    """The prompts of a file, or one share of them.

    Args:
        file: A prompt a line; empty lines and those that begin with # say nothing.
        shard: "I/N", I from 1 to N: every N-th prompt, from the I-th on.

    Raises:
        UsageError: There are none, or no such share.
        OSError: The file cannot be read.
    """
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise UsageError(f"{file} has no prompts")
    if shard is None:
        return prompts
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard must be I/N with I from 1 to N, not {shard!r}")
    return prompts[int(number) - 1 :: int(count)]


def listed(arguments: Arguments) -> list[Wanted]:
    """The runs that a command line asks for, the seeds of a prompt beside each other.

    Raises:
        UsageError: Two of them would have one folder.
    """
    if arguments.prompts_file is None:
        prompts = [arguments.prompt]
    else:
        prompts = read_prompts(arguments.prompts_file, arguments.shard)
    found: dict[Path, Wanted] = {}
    for prompt in prompts:
        for seed in arguments.seeds or (arguments.seed,):
            folder = run_folder(arguments.output, prompt, seed)
            if folder in found:
                other = found[folder].settings.prompt
                raise UsageError(f"{other!r} and {prompt!r}, seed {seed}, would both be {folder}")
            one = dataclasses.replace(arguments, prompt=prompt, seed=seed)
            found[folder] = Wanted(folder, settings_of(one))
    return [*found.values()]


def make_many(arguments: Arguments) -> None:
    """Makes all runs that are not finished, and names the best seed of each prompt.

    Raises:
        UsageError: The request cannot be carried out, or some of the runs had trouble.
        ValueError: See `Run.start`.
        OSError: See `Run.start`.
    """
    wanted = listed(arguments)
    pending = [item for item in wanted if not is_finished(item.folder)]
    steps = arguments.config.train.steps
    trouble: dict[Path, str] = {}
    with Reporter() as reporter, stop_on_signals() as stop:
        reporter.say(f"{len(wanted)} scenes, {len(wanted) - len(pending)} of them finished")
        if pending:
            with options_named():
                priors = Priors.load([item.settings for item in pending], reporter.say)
            size = arguments.batch or _batch_size(wanted, pending[0], priors, reporter.say)
            overall = Overall(reporter, len(wanted) * steps, (len(wanted) - len(pending)) * steps)
            for batch in batches(wanted, size):
                todo = [item for item in batch if not is_finished(item.folder)]
                if todo:
                    trouble |= _make_batch(arguments, todo, priors, overall, stop, reporter.say)
    _name_best(wanted)
    if trouble:
        lines = "; ".join(f"{folder}: {reason}" for folder, reason in trouble.items())
        raise UsageError(f"{len(trouble)} of {len(wanted)} scenes had trouble: {lines}")


def _batch_size(wanted: Sequence[Wanted], one: Wanted, priors: Priors, say: Say) -> int:
    """How many at once: the same however many of those that are wanted are finished."""
    most = max(len(batch) for batch in batches(wanted, len(wanted)))
    fit = scenes_that_fit(one.settings, priors.of(one.settings), most)
    say(f"{fit}" + f" on each of {jax.device_count()} devices" * (jax.device_count() > 1))
    return fit.scenes * jax.device_count()


def _make_batch(
    arguments: Arguments,
    todo: Sequence[Wanted],
    priors: Priors,
    overall: Overall,
    stop: Callable[[], int],
    say: Say,
) -> dict[Path, str]:
    """Trains a batch and writes its results; returns what went wrong, by folder."""
    settings = todo[0].settings
    split = arguments.split
    if split.scene is not None:  # The last batch may have fewer scenes.
        split = dataclasses.replace(split, scene=math.gcd(split.scene, len(todo)))
    mesh = chosen_mesh(split, settings, priors.of(settings), say, len(todo))
    trouble = {}
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(item.open(priors.of(item.settings), _named(say, item.folder)))
            for item in todo
        ]
        watchers = {run: Watcher(run, run.say) for run in runs}

        def watching(run: Run) -> list[Observer]:
            events: list[Observer] = [TensorBoard(run.folder)] if arguments.tensorboard else []
            return [watchers[run], *events]

        members = train_together(runs, watching=watching, overall=[overall], stop=stop, mesh=mesh)
        for member in members:
            reason = _finish(member, watchers[member.run])
            if reason is not None:
                trouble[member.run.folder] = reason
            if stop():
                raise Stopped(settings.config.train.steps, stop())
    return trouble


def _finish(member: Member, watcher: Watcher) -> str | None:
    """Writes the results and the page of a run; returns what went wrong, if something did."""
    if member.trouble is not None:
        return str(member.trouble)
    run = member.run
    scene = run.scene(member.state)
    watcher.finish(scene)
    write_held_out(run, member.state)
    try:
        run.write_results(scene)
    except ValueError as error:  # It is empty; the others need not be.
        return str(error)
    write_run_page(run.folder, command_of(run.settings))
    run.say("done")
    return None


def _named(say: Say, folder: Path) -> Say:
    return lambda phase: say(f"{folder.name}: {phase}")


def _name_best(wanted: Sequence[Wanted]) -> None:
    """Says which seed of each prompt is best, where several have come out."""
    by_prompt: dict[str, list[Path]] = {}
    for item in wanted:
        if is_finished(item.folder):
            by_prompt.setdefault(item.settings.prompt, []).append(item.folder)
    for folders in by_prompt.values():
        if len(folders) > 1:
            print(f"best of {len(folders)}: {best_by_prior(folders)}", flush=True)

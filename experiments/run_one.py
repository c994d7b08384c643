"""One scene, or the best of a few seeds: trained, watched, drawn, and put on a page."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from dreamfusion_jax.evaluation.symptoms import Symptoms, complaints
from dreamfusion_jax.evaluation.watching import Watcher, best
from dreamfusion_jax.pages.run_page import write_run_page
from dreamfusion_jax.priors.opened import Say
from dreamfusion_jax.runs.hosts import is_writer, own_folder, wait_for_all
from dreamfusion_jax.runs.loop import Observer, Stopped
from dreamfusion_jax.runs.progress import Reporter
from dreamfusion_jax.runs.run import LoadedPrior, Run, RunExistsError, run_folder
from dreamfusion_jax.runs.tensorboard import TensorBoard, check_installed
from dreamfusion_jax.viewer.live import Live
from dreamfusion_jax.viewer.server import LOCAL, check_place
from dreamfusion_jax.viewer.viewer import Viewer
from experiments.again import command_of
from experiments.command_line import UsageError
from experiments.run_options import Arguments, options_named, settings_of
from experiments.splitting import chosen_mesh


def _target(arguments: Arguments) -> Path:
    """The folder that a command line means."""
    if arguments.resume is not None:
        return arguments.resume
    return run_folder(arguments.output, arguments.prompt, arguments.seed)


def open_run(
    arguments: Arguments, folder: Path, say: Say, loaded: LoadedPrior | None = None
) -> Run:
    """Starts or resumes the run that a command line asks for.

    Args:
        arguments: The command line.
        folder: Where this host keeps it.
        say: Is told of phases.
        loaded: The prior, if it is in memory already.

    Raises:
        ValueError: A request that cannot be carried out.
        OSError: Weights that cannot be read, or a folder that cannot be written.
    """
    if arguments.resume is not None:
        return Run.resume(folder, loaded, say)
    try:
        with options_named():
            return Run.start(
                folder,
                settings_of(arguments),
                loaded,
                say,
                take_the_time=bool(arguments.take_the_time),
            )
    except RunExistsError:
        raise UsageError(
            f"{folder} holds a run already: --resume {folder}, or another --output"
        ) from None


def check_watching(arguments: Arguments) -> None:
    """Refuses, before there is a run, observers that cannot be had."""
    if arguments.tensorboard:
        check_installed()
    if arguments.viewer:
        check_place(LOCAL, arguments.port)


@contextlib.contextmanager
def _watching(arguments: Arguments, run: Run) -> Iterator[list[Observer]]:
    """The observers that a command line asks for."""
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = [TensorBoard(run.folder)] if arguments.tensorboard else []
        if arguments.viewer:
            radius = run.config.scene.sampling.radius
            viewer = stack.enter_context(Viewer(run.folder.name, radius, port=arguments.port))
            run.say(f"viewer: {viewer.address}")
            observers.append(Live(run, viewer))
        yield observers


def make(
    arguments: Arguments, loaded: LoadedPrior | None = None, *, again: bool = False
) -> tuple[Run, Symptoms]:
    """Trains one scene and writes its results and its page, or goes on with it.

    Args:
        arguments: The command line.
        loaded: The prior, if it is in memory already.
        again: Whether another seed will follow where this one comes out empty, so that it is
            no error that nothing can be written.

    Returns:
        The run, closed, and what its scene suffers from.
    """
    target = _target(arguments)
    console = None if is_writer() else Console(quiet=True)
    with (
        own_folder(target, begun=arguments.resume is not None) as folder,
        Reporter(console=console) as reporter,
        open_run(arguments, folder, reporter.say, loaded) as run,
        _watching(arguments, run) as watching,
    ):
        watcher = Watcher(run, reporter.say)
        mesh = chosen_mesh(arguments.split, run.settings, run.loaded, reporter.say)
        try:
            with options_named():
                scene = run.train([reporter, watcher, *watching], mesh, target)
        except Stopped as stopped:
            print(f"{stopped}; go on with --resume {target}", file=sys.stderr)
            raise SystemExit(128 + stopped.signal) from None
        found = watcher.finish(scene)
        if is_writer() and not (again and "emptiness" in complaints(found)):
            run.write_results(scene)
            page = write_run_page(run.folder, command_of(run.settings))
            reporter.say(f"done: {run.folder}\npage: {page}")
        else:
            reporter.say(f"done: {run.folder}")
        wait_for_all()  # The others, for the one that draws.
    return run, found


def make_one(arguments: Arguments) -> None:
    """Makes the scene that a command line asks for, and others where one does not come out well."""
    found: dict[Path, Symptoms] = {}
    loaded = None
    for left in range(arguments.retries, -1, -1):
        run, found_now = make(arguments, loaded, again=left > 0)
        found[run.folder] = found_now
        if not complaints(found_now):
            break
        loaded = run.loaded
        arguments = dataclasses.replace(arguments, seed=arguments.seed + 1)
    if len(found) > 1:
        print(f"best of {len(found)}: {best(found)}", flush=True)

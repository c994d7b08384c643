"""Many runs at once: one program takes all scenes of a batch a step further.

Each run has its own folder and writes what it would write alone. Which runs make a batch follows
from the list alone, not from what is finished: so a batch that was stopped is the same again, and
goes on bit by bit.
"""

import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import ScalarLike

from dreamfusion_jax.distillation.train import TrainState, train_scenes
from dreamfusion_jax.priors.loading import made_for_one_prompt
from dreamfusion_jax.pytree import stack
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError
from dreamfusion_jax.runs.files import CONFIG
from dreamfusion_jax.runs.loop import Moment, Observer, iterate
from dreamfusion_jax.runs.metrics import NotFiniteError
from dreamfusion_jax.runs.run import LoadedPrior, Run, Say
from dreamfusion_jax.runs.settings import RunSettings
from dreamfusion_jax.sharing import replicate, spread_weights

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A run that is to be made.

    Attributes:
        folder: Where.
        settings: What.
    """

    folder: Path
    settings: RunSettings

    def open(self, loaded: LoadedPrior, say: Say) -> Run:
        """Starts the run, or goes on with it.

        Raises:
            CheckpointError: The folder holds a run of other settings; or see `Run.start`.
            ValueError: See `Run.start`.
            OSError: See `Run.start`.
        """
        if not (self.folder / CONFIG).exists():
            return Run.start(self.folder, self.settings, loaded, say)
        run = Run.resume(self.folder, loaded, say)
        if run.settings != self.settings:
            run.close()
            raise CheckpointError(f"{self.folder} holds a run with other settings")
        return run


@dataclasses.dataclass(frozen=True)
class Priors:
    """The priors of many runs that differ in prompt and seed: one for all, or one a prompt.

    Attributes:
        by_key: Prompt, or name, to what was loaded.
    """

    by_key: Mapping[str, LoadedPrior]

    @classmethod
    def load(cls, settings: Sequence[RunSettings], say: Say) -> "Priors":
        """Loads them, and has all prompts read, so that none is refused later.

        Raises:
            ValueError: A prompt cannot be read; or see `RunSettings.load_prior`.
            OSError: Weights that cannot be read.
        """
        firsts = {_prior_key(one): one for one in reversed(settings)}
        say(f"loading the prior {settings[0].prior}")
        found = {key: one.load_prior() for key, one in firsts.items()}
        say("encoding the prompts")
        for key, (prior, params) in found.items():
            prompts = {one.prompt for one in settings if _prior_key(one) == key}
            prior.encode_text(params, sorted(prompts))
        return cls(found)

    def of(self, settings: RunSettings) -> LoadedPrior:
        """The prior of a run."""
        return self.by_key[_prior_key(settings)]


def _prior_key(settings: RunSettings) -> str:
    return settings.prompt if made_for_one_prompt(settings.prior) else settings.prior


def batches(wanted: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    """Runs that can be trained together, in their order, at most so many at a time.

    Args:
        wanted: Settings that differ in prompt and seed alone.
        size: Most runs of a batch.
    """
    for _, group in itertools.groupby(wanted, lambda item: _prior_key(item.settings)):
        runs = [*group]
        yield from (runs[at : at + size] for at in range(0, len(runs), size))


@dataclasses.dataclass
class Member:
    """A run of a batch.

    Attributes:
        run: Open.
        state: Where it stands; after the training, where it ended.
        observers: Told of its steps.
        trouble: Why it cannot go on; the others do.
    """

    run: Run
    state: TrainState
    observers: Sequence[Observer[TrainState]] = ()
    trouble: NotFiniteError | None = None


def train_together(
    runs: Sequence[Run],
    *,
    watching: Callable[[Run], Sequence[Observer[TrainState]]] = lambda run: (),
    overall: Sequence[Observer[TrainState]] = (),
    stop: Callable[[], int] = lambda: 0,
    mesh: Mesh | None = None,
) -> list[Member]:
    """Trains runs to their ends, each as `Run.train` would, to float tolerance.

    Args:
        runs: Of one model and one training, which differ in prompt and seed.
        watching: Further observers of a run.
        overall: Observers of all runs at once: their states are stacked, their values arrays.
        stop: See `loop.iterate`.
        mesh: Devices that share the scenes, their views and the prior.

    Returns:
        The runs with their states. One whose step was not finite has ended early, in trouble.

    Raises:
        Stopped: A signal came; all states are saved.
        CheckpointError: See `Run.train`.
        OSError: See `Run.train`.
    """
    with contextlib.ExitStack() as stack:
        checkpointers = [stack.enter_context(Checkpointer(run.folder)) for run in runs]
        _meet(checkpointers)
        members = [
            Member(run, run.begin(checkpoints))
            for run, checkpoints in zip(runs, checkpointers, strict=True)
        ]
        for member, checkpoints in zip(members, checkpointers, strict=True):
            kept = member.run.keepers(checkpoints, int(member.state.step))
            member.observers = [*kept, *watching(member.run)]
        total = members[0].run.config.train.steps
        by_step = sorted(members, key=_step)
        for first, group in itertools.groupby(by_step, _step):
            if first < total:
                _train([*group], first, total, overall, stop, mesh)
    return members


def _step(member: Member) -> int:
    return int(member.state.step)


def _meet(checkpointers: Sequence[Checkpointer]) -> None:
    """Takes runs back by at most one checkpoint, to where another of the batch stands.

    A program that is killed while it saves leaves some at this checkpoint and some at the one
    before; together they go on as if nothing had happened.
    """
    steps = [checkpointer.steps() for checkpointer in checkpointers]
    stands = {own[-1] if own else 0 for own in steps}
    for checkpointer, own in zip(checkpointers, steps, strict=True):
        before = own if len(own) > 1 else [0, *own]
        checkpointer.forget_after(min(stands.intersection(before)))


def _train(
    members: Sequence[Member],
    first: int,
    total: int,
    overall: Sequence[Observer[TrainState]],
    stop: Callable[[], int],
    mesh: Mesh | None,
) -> None:
    """Trains members that stand at the same step; leaves their states in them."""
    run = members[0].run
    prior_params = run.loaded[1]
    states = stack([member.state for member in members])
    texts = stack([member.run.text for member in members])
    if mesh is not None:
        prior_params = spread_weights(prior_params, mesh)
        states, texts = (
            jax.device_put(tree, NamedSharding(mesh, PartitionSpec("scene")))
            for tree in (states, texts)
        )
    step = functools.partial(
        train_scenes,
        prior_params=prior_params,
        texts=texts,
        config=run.config.train,
        mesh=mesh,
    )
    apart = _Apart(members, mesh)
    run.say(f"compiling for {len(members)} scenes")
    with contextlib.suppress(NotFiniteError):  # Of the last member; each knows its own.
        states = iterate(
            run.advance_from(first, step),
            states,
            first=first,
            total=total,
            observers=[apart, *overall],
            stop=stop,
        )
        for at, member in enumerate(members):
            member.state = apart.cut(states, at)


@jax.jit
def _cut(tree: Any, at: ScalarLike) -> Any:
    return jax.tree.map(lambda leaf: leaf[at], tree)


class _Apart:
    """Tells the observers of each run of its part of a step; an observer of all of them.

    States are cut out of the stack only where somebody asks for one, and the values of all runs
    are fetched at once.
    """

    def __init__(self, members: Sequence[Member], mesh: Mesh | None) -> None:
        self.members, self.mesh = members, mesh

    def __call__(self, moment: Moment[TrainState]) -> None:
        values = _fetched(moment)
        for at, member in enumerate(self.members):
            if member.trouble is not None:
                continue
            read = functools.cache(functools.partial(self.cut, moment.state, at))
            own = _Picked(moment.values, values, operator.itemgetter(at))
            part = dataclasses.replace(moment, read=read, values=own)
            try:
                for observer in member.observers:
                    observer(part)
            except NotFiniteError as error:
                member.trouble = error
                member.run.say(f"{member.run.folder}: {error}")
                if all(other.trouble for other in self.members):
                    raise

    def cut(self, states: TrainState, at: int) -> TrainState:
        """One of the stacked states, as `Run.train` would hold it."""
        state = _cut(states, at)
        return state if self.mesh is None else replicate(state, self.mesh)


class _Picked(Mapping[str, float]):
    """A number of the values of several runs, which are fetched when the first is asked for."""

    def __init__(
        self,
        names: Iterable[str],
        values: Callable[[], Mapping[str, np.ndarray]],
        pick: Callable[[np.ndarray], float],
    ) -> None:
        self._names, self._values, self._pick = tuple(names), values, pick

    def __getitem__(self, name: str) -> float:
        return float(self._pick(self._values()[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Overall:
    """Shows batches, one after the other, as one training whose steps are those of all scenes.

    Args:
        observer: Is told; of means over the scenes of a batch.
        total: Steps of all scenes together.
        done: Those of them that were done before.
    """

    def __init__(self, observer: Observer[TrainState], total: int, done: int = 0) -> None:
        self._observer, self._total, self._done = observer, total, done

    def __call__(self, moment: Moment[TrainState]) -> None:
        """See `loop.Observer`; `train_together` tells it of all scenes of a batch."""
        scenes = len(moment.values["finite"])  # pyright: ignore[reportArgumentType]
        step = self._done + scenes * moment.step
        values = _Picked(moment.values, _fetched(moment), np.mean)
        self._observer(dataclasses.replace(moment, step=step, total=self._total, values=values))
        if moment.last:
            self._done = step


def _fetched(moment: Moment[TrainState]) -> Callable[[], Mapping[str, np.ndarray]]:
    return functools.cache(lambda: jax.device_get(dict(moment.values)))

"""The command that makes a run again."""

import shlex
from collections.abc import Iterator
from typing import Any

from dreamfusion_jax import presets
from dreamfusion_jax.field_choice import field_name, with_field
from dreamfusion_jax.runs.settings import RunSettings, to_json
from experiments.command_line import UsageError
from experiments.run_options import parse, settings_of

PROGRAM = ("python", "-m", "experiments.run")


def command_of(settings: RunSettings) -> str | None:
    """The command line that asks for just these settings; None if none does.

    What was made by the library may have settings that no option reaches.
    """
    try:
        words = [*_words(settings)]
        same = settings_of(parse(words)) == settings
    except (UsageError, ValueError):
        return None
    return shlex.join([*PROGRAM, *words]) if same else None


def _words(settings: RunSettings) -> Iterator[str]:
    preset = presets.preset(settings.preset)
    yield from ("--prompt", settings.prompt, "--seed", str(settings.seed))
    if preset != presets.usual_preset(settings.prior):
        yield from ("--preset", preset.name)
    if settings.prior != "toybox":
        yield from ("--prior", settings.prior)
    simple = (
        "negative_prompt",
        "weights",
        "image_size",
        "prediction_type",
        "tokenizer",
        "init_from",
    )
    for option in simple:
        value = getattr(settings, option)
        if value not in (None, ""):
            yield from (_option(option), str(value))
    if settings.loras:
        yield from ("--lora", *settings.loras)
    base = preset.config
    name = field_name(settings.config)
    if name != field_name(base):
        base = with_field(base, name)
        yield from ("--field", name)
    yield from _changes(to_json(base), to_json(settings.config))


def _changes(base: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Options for the values that differ."""
    if isinstance(wanted, dict) and isinstance(base, dict):
        for name, value in wanted.items():
            yield from _changes(base.get(name), value, f"{place}.{name}" if place else name)
    elif wanted != base:
        yield "--steps" if place == "train.steps" else _option(place)
        yield from _spelt(wanted)


def _spelt(value: Any) -> Iterator[str]:
    """A value as words, of several one after the other."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _spelt(part)
    else:
        yield str(value)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

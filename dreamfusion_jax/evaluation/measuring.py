"""What is measured of an object: against the truth, and by the judge."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.judge import (
    Judge,
    Params,
    Verdict,
    load_judge,
    modifiers_named,
)
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS, Measures, Portrait
from dreamfusion_jax.looks.media import contact_sheet
from dreamfusion_jax.looks.views import Looks
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import orbit
from dreamfusion_jax.scene.lighting import LIGHT_GREY
from dreamfusion_jax.toybox.world import Scene

_RING_VIEWS = (0, 1, 1, 2, 2, 1, 1, 0)
"""What the judge should say of the lower ring: 22.5 degrees is a front, 67.5 a side."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judge says of the lower ring of a portrait's views.

    Attributes:
        category: Number of azimuths at which it names the category.
        colour: The colour it names most often.
        view: Number of azimuths at which it names the view.
        modifier: Number of azimuths at which it names the modifier and its colour; None where
            there is none, or the judge knows none.
    """

    category: int
    colour: str
    view: int
    modifier: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    scene: Scene
    measures: Measures
    judgement: Judgement | None


Jury = Callable[[Portrait, Scene], Judgement | None]


def make_jury(judge: Judge, params: Params) -> Jury:
    """A function that judges portraits over a light grey.

    Args:
        judge: The classifier.
        params: Its parameters.
    """
    config, look = judge.config, jax.jit(judge)

    def decide(portrait: Portrait, scene: Scene) -> Judgement:
        grey = jnp.asarray(portrait.colour) - 0.15 * (1 - jnp.asarray(portrait.opacity)[..., None])
        verdict = look(params, grey[:AZIMUTHS])
        category, colour, view = (
            np.asarray(jnp.argmax(x, axis=-1))
            for x in (verdict.category, verdict.colour, verdict.view)
        )
        names = np.array(config.answers)[category]
        return Judgement(
            category=int((names == scene.category).sum()),
            colour=config.colours[np.bincount(colour).argmax()],
            view=int((view == np.array(_RING_VIEWS)).sum()),
            modifier=_modified(verdict, judge, scene),
        )

    return decide


def _modified(verdict: Verdict, judge: Judge, scene: Scene) -> int | None:
    """In how many pictures the judge sees the scene's modifier in its colour."""
    named = modifiers_named(verdict, judge.config)
    if scene.modifier is None or named is None:
        return None
    return int(((named[0] == scene.modifier) & (named[1] == scene.modifier_colour)).sum())


def no_jury(portrait: Portrait, scene: Scene) -> None:
    """Judges nothing."""
    del portrait, scene


def load_jury(folder: Path | None) -> Jury:
    """The judge in a folder, or none.

    Raises:
        FileNotFoundError: There is no judge in the folder.
    """
    return make_jury(*load_judge(folder)) if folder else no_jury


def measure(name: str, scene: Scene, portrait: Portrait, jury: Jury) -> Row:
    """A line of the table."""
    return Row(name, scene, metrics.measure(scene, portrait), jury(portrait, scene))


def look_at(scene: TrainedScene, size: int) -> Looks:
    """What the measuring cameras see of an object, over white."""
    return scene.look(metrics.measuring_cameras(), size=size, backdrop=1.0)


def portrait_of(looks: Looks) -> Portrait:
    """The part of the looks that is measured."""
    return Portrait(looks.colour, looks.opacity[..., 0])


def draw_sheet(looks: Looks, truth: Portrait) -> np.ndarray:
    """The truth above the object: colour, shaded, textureless and normals of eight azimuths."""
    rows = [truth.colour, looks.colour, looks.shaded, looks.textureless, looks.normals]
    labels = ["truth", "colour", "shaded", "textureless", "normals"]
    return contact_sheet(np.stack([np.asarray(row)[:AZIMUTHS] for row in rows]), labels)


def glance(scene: TrainedScene, size: int = 128) -> np.ndarray:
    """Four sides, in colour and then shaded [8, size, size, 3]: a row of a picture of many."""
    sides = orbit(4, math.radians(20.0), 1.3, 1.1, azimuth=math.radians(30.0))
    looks = scene.look(sides, size=size, backdrop=LIGHT_GREY)
    return np.concatenate([looks.colour, looks.shaded])

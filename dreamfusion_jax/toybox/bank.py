"""Traced views, kept without colours: one file serves every colour, modifier and background.

Because `Layers` are linear in colour, about a thousand views of each kind of object (a
category, with or without a modifier) are enough for millions of pictures. They are written
one chunk of a kind at a time and read through memory maps, so that a bank larger than the
memory can be drawn from, and can grow while it is used.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.scene.camera import CameraConfig, sample_camera
from dreamfusion_jax.scene.lighting import LightingConfig, sample_lighting
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.renderer import trace_layers
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS, HELD_OUT, MODIFIERS

NARROW_CAMERAS = CameraConfig(
    elevation=(-10.0, 65.0),
    distance=(1.2, 1.4),
    position_jitter=0.02,
    look_at_std=0.01,
    up_std=0.01,
    gaussians="std",
    focal=(1.05, 1.2),
)
"""Cameras under which apparent size tells a small prior the real size (training and SDS)."""

WIDE_CAMERAS = CameraConfig(gaussians="std")
"""The paper's cameras, the spreads of look-at and up read as standard deviations."""

SOFT_LIGHTING = LightingConfig(
    albedo_until=0.0,
    diffuse_probability=0.5,
    textureless_probability=0.0,
    ambient=0.4,
    diffuse=0.6,
)
"""Lights under which the side away from the light keeps its colour (training and SDS)."""

FACTS = ("azimuth", "elevation", "size", "lit", "wide")
"""What is kept of a view beside its picture: radians, focal length over distance, 0 or 1."""

Kind = tuple[str, str | None]
"""A category, and a modifier or None."""


@dataclasses.dataclass(frozen=True)
class BankConfig:
    """What the traced views show.

    Attributes:
        size: Height and width, pixels.
        cameras: Distribution of the cameras of most views.
        wide_cameras: Distribution of the others.
        wide: Share of the others.
        lighting: Distribution of the lights.
        seed: Of everything random.
    """

    size: int = 64
    cameras: CameraConfig = NARROW_CAMERAS
    wide_cameras: CameraConfig = WIDE_CAMERAS
    wide: float = 1 / 3
    lighting: LightingConfig = SOFT_LIGHTING
    seed: int = 1


def kinds_of(vocabulary: Vocabulary) -> list[Kind]:
    """Every category of a vocabulary without and with each of its modifiers."""
    return [(c, m) for c in vocabulary.categories for m in (None, *vocabulary.modifiers)]


@functools.partial(jax.jit, static_argnames=("category", "config", "count", "at_once"))
def trace_views(
    key: Key[Array, ""],
    modifier: Int[Array, ""],
    *,
    category: str,
    config: BankConfig,
    count: int,
    at_once: int = 16,
) -> tuple[UInt8[Array, "V H W 6"], Float[Array, "V 5"]]:
    """Traces random views of one kind of object.

    Args:
        key: Seed.
        modifier: Its number, 0 for none; not its name, so that a category is compiled once.
        category: What to trace.
        config: From where, and in which light.
        count: Number of views.
        at_once: Views traced together; bounds the memory.

    Returns:
        Premultiplied material coefficients and alpha, in 1/255, and the `FACTS`.
    """

    def draw(view_key: jax.Array):
        narrow_key, wide_key, choice_key, light_key = jax.random.split(view_key, 4)
        wide = jax.random.bernoulli(choice_key, config.wide)
        camera = jax.tree.map(
            lambda a, b: jnp.where(wide, a, b),
            sample_camera(wide_key, config.wide_cameras),
            sample_camera(narrow_key, config.cameras),
        )
        lighting = sample_lighting(light_key, camera.position, 0, 1, config.lighting)
        layers = trace_layers(category, modifier, camera, lighting, size=config.size)
        values = jnp.concatenate([layers.coefficients, layers.alpha[..., None]], axis=-1)
        coded = jnp.round(jnp.clip(values, 0.0, 1.0) * 255).astype(jnp.uint8)
        size = camera.focal / jnp.linalg.norm(camera.position)
        lit = lighting.diffuse > 0
        facts = (camera.azimuth, camera.elevation, size, lit, wide)
        return coded, jnp.stack([jnp.asarray(fact, jnp.float32) for fact in facts])

    return jax.lax.map(draw, jax.random.split(key, count), batch_size=at_once)


def write_views(folder: Path, kind: Kind, chunk: int, count: int, config: BankConfig) -> bool:
    """Traces one chunk of a kind's views into a bank, unless it is there.

    A chunk is two files, and is there when the second is: the pictures, then the facts.

    Args:
        folder: The bank; made if absent.
        kind: What to trace.
        chunk: Which chunk of it; each has random views of its own.
        count: Number of views.
        config: From where, and in which light.

    Returns:
        Whether it had to be traced.

    Raises:
        ValueError: The bank was begun with another configuration.
    """
    _check_same(folder, config)
    pictures, facts = _files(folder, kind, chunk)
    if facts.exists():
        return False
    key = jax.random.key(config.seed)
    category, modifier = kind
    numbers = (list(CATEGORIES).index(category), (None, *MODIFIERS).index(modifier), chunk)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    at_once = 16 if jax.default_backend() == "cpu" else 256
    number = jnp.asarray(numbers[1])
    found = trace_views(key, number, category=category, config=config, count=count, at_once=at_once)
    for file, values in zip((pictures, facts), found, strict=True):
        write_whole(file, functools.partial(np.save, arr=np.asarray(values)))
    return True


def _files(folder: Path, kind: Kind, chunk: int) -> tuple[Path, Path]:
    category, modifier = kind
    extra = "plain" if modifier is None else modifier.split()[-1]
    stem = f"{category.replace(' ', '-')}.{extra}.{chunk:03d}"
    return folder / f"{stem}.layers.npy", folder / f"{stem}.facts.npy"


def _check_same(folder: Path, config: BankConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, values = folder / "bank.json", json.loads(json.dumps(dataclasses.asdict(config)))
    if not file.exists():
        file.write_text(json.dumps(values, indent=2) + "\n")
    elif json.loads(file.read_text()) != values:
        raise ValueError(
            f"{folder} was drawn for other settings; delete it or choose another folder"
        )


class Bank:
    """The traced views of a folder, as far as they are there.

    Only the rows that are asked for are read. Open it again to see chunks that were added.

    Args:
        folder: What `write_views` wrote.
        kinds: What to look for; kinds without a view are left out.

    Attributes:
        kinds: Those of which there are views.
        size: Height and width of the views, pixels.

    Raises:
        FileNotFoundError: There are no views of any of them.
    """

    def __init__(self, folder: Path, kinds: Iterable[Kind]) -> None:
        self._pictures: dict[Kind, list[np.ndarray]] = {}
        self._facts: dict[Kind, list[np.ndarray]] = {}
        for kind in kinds:
            pattern = _files(folder, kind, 0)[1].name.replace(".000.", ".*.")
            for file in sorted(folder.glob(pattern)):
                pictures = file.with_name(file.name.replace(".facts.", ".layers."))
                self._pictures.setdefault(kind, []).append(np.load(pictures, mmap_mode="r"))
                self._facts.setdefault(kind, []).append(np.load(file))
        if not self._facts:
            raise FileNotFoundError(
                f"{folder} holds no traced views; experiments.draw_bank draws some"
            )
        self.kinds = tuple(self._facts)
        self.size = int(self._pictures[self.kinds[0]][0].shape[1])

    def count(self, kind: Kind) -> int:
        """Number of a kind's views."""
        return sum(len(chunk) for chunk in self._facts.get(kind, []))

    def view(self, kind: Kind, index: int) -> tuple[UInt8[np.ndarray, "H W 6"], np.ndarray]:
        """One view's layers, and its `FACTS`.

        Raises:
            IndexError: There are not so many.
        """
        chunk, index = self._place(kind, index)
        return self._pictures[kind][chunk][index], self._facts[kind][chunk][index]

    def facts(self, kind: Kind, index: int) -> np.ndarray:
        """The `FACTS` of one view.

        Raises:
            IndexError: There are not so many.
        """
        chunk, index = self._place(kind, index)
        return self._facts[kind][chunk][index]

    def _place(self, kind: Kind, index: int) -> tuple[int, int]:
        for chunk, facts in enumerate(self._facts[kind]):
            if index < len(facts):
                return chunk, index
            index -= len(facts)
        raise IndexError(f"there is no such view of {kind}")

    def everything(self) -> UInt32[np.ndarray, "N words"]:
        """The layers of all views, for a device that has room for them; see `Rows`.

        Four bytes a number: a bank of more than 2^31 bytes is then an array of fewer elements.
        """
        parts = [part for kind in self.kinds for part in self._pictures[kind]]
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts])
        return rows.view(np.uint32)


class Rows:
    """A bank that gives, in place of a view's layers, their number in `Bank.everything`.

    Args:
        bank: Whose views.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank, self.kinds, self.size = bank, bank.kinds, bank.size
        ends = np.cumsum([bank.count(kind) for kind in bank.kinds])
        self._first = dict(zip(bank.kinds, (0, *ends[:-1].tolist()), strict=True))

    def count(self, kind: Kind) -> int:
        """Number of a kind's views."""
        return self._bank.count(kind)

    def view(self, kind: Kind, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One view's number [], and its `FACTS`."""
        return np.array(self._first[kind] + index, np.int32), self._bank.facts(kind, index)


def allowed_colours(vocabulary: Vocabulary, *, held_out: bool = False) -> np.ndarray:
    """[categories, colours] of bool: the pairs for training, or the pairs held out of it."""
    return np.array(
        [
            [((category, colour) in HELD_OUT) == held_out for colour in vocabulary.colours]
            for category in vocabulary.categories
        ]
    )


def palette_of(vocabulary: Vocabulary) -> np.ndarray:
    """[colours, 3] RGB of a vocabulary's colours."""
    return np.array([COLOURS[name] for name in vocabulary.colours], np.float32)

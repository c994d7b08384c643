"""JSON files of scenes of several runs, and of cameras."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from dreamfusion_jax.checks import FINITE, POSITIVE, check_range
from dreamfusion_jax.compose.render import Placed
from dreamfusion_jax.runs.settings import from_json
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import Camera, look_at

Vector = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class PlacedRun:
    """A run at its place in a larger scene.

    Attributes:
        run: Folder of the run, or a scene's file; from the JSON file's folder.
        position: Of its origin, world units; z is up.
        turn: Degrees around z, counterclockwise from above.
        size: World units that one unit of it becomes; toys are about one unit high.
    """

    run: str
    position: Vector = (0.0, 0.0, 0.0)
    turn: float = 0.0
    size: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, POSITIVE, "size")
        check_range(self, FINITE, "turn")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A scene of several runs."""

    objects: tuple[PlacedRun, ...]


@dataclasses.dataclass(frozen=True)
class Pose:
    """A camera, and what it faces.

    Attributes:
        position: Where it stands.
        target: What it looks at.
        up: What is up in its picture.
        focal: Focal length in image widths.
    """

    position: Vector
    target: Vector = (0.0, 0.0, 0.0)
    up: Vector = (0.0, 0.0, 1.0)
    focal: float = 1.1

    def __post_init__(self) -> None:
        check_range(self, POSITIVE, "focal")
        if self.position == self.target:
            raise ValueError("a camera stands where it looks")


def load_layout(path: Path) -> tuple[Placed, ...]:
    """The scenes of a JSON file, {"objects": [{"run", "position", "turn", "size"}, ...]}.

    Raises:
        ValueError: It is no such file, names no object, or a run cannot be read.
        OSError: It cannot be read.
    """
    layout = _read(path, Layout)
    if not layout.objects:
        raise ValueError(f"{path} names no objects")
    scenes = {item.run: TrainedScene.load(path.parent / item.run) for item in layout.objects}
    return tuple(
        scenes[item.run].placed(item.position, math.radians(item.turn), item.size)
        for item in layout.objects
    )


def read_cameras(path: Path) -> Camera:
    """The cameras [V] of a JSON file, [{"position", "target", "up", "focal"}, ...].

    Raises:
        ValueError: It is no such file, or without a camera.
        OSError: It cannot be read.
    """
    poses = _read(path, tuple[Pose, ...])
    if not poses:
        raise ValueError(f"{path} has no cameras")
    position, target, up = (
        jnp.array([getattr(pose, name) for pose in poses], jnp.float32)
        for name in ("position", "target", "up")
    )
    focal = jnp.array([pose.focal for pose in poses], jnp.float32)
    return Camera(position, look_at(position, target, up), focal)


def _read(path: Path, kind: Any) -> Any:
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")), kind)
    except ValueError as error:  # Of JSON, of UTF-8, or of the values.
        raise ValueError(f"{path}: {error}") from error

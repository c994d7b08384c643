"""Pictures and videos of finished objects: any camera, any light, several objects at once.

    python -m experiments.render outputs/a-red-mushroom-seed0 --environment sky.hdr
    python -m experiments.render table.json --path spiral --shadows --light 2 2 3
    python -m experiments.render outputs/*-seed0 --output outputs/turn.webp

Of several scenes each gets a file of its own, named after it: turn-a-red-car-seed0.webp.
The JSON file of a scene places runs, named from its own folder:

    {"objects": [{"run": "a-red-car-seed0", "position": [0, 0.3, 0], "turn": 40, "size": 0.5}]}

That of cameras is a list of {"position", "target", "up", "focal"}, a frame each; only the
position must be given.
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.compose.backgrounds import over_colour, over_panorama, with_opacity
from dreamfusion_jax.compose.environment import prefilter, read_panorama, uniform
from dreamfusion_jax.compose.illumination import Illumination
from dreamfusion_jax.compose.render import Placed, Seen, render_view
from dreamfusion_jax.looks.media import check_frames, save_frames
from dreamfusion_jax.runs.layout import load_layout, read_cameras
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import Camera, orbit
from dreamfusion_jax.scene.lighting import LIGHT_GREY
from dreamfusion_jax.scene.paths import spiral
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say

Background = tuple[float, float, float] | Literal["none", "environment"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to draw and how.

    Attributes:
        scenes: Folders of runs, scene.safetensors files, or JSON files that place several runs.
        output: The file; of several scenes what the names of theirs begin with. Its suffix chooses
            .mp4, .gif, .webp or .png, of which a number of frames become numbered files.
        path: How the camera goes around the origin, unless --cameras says.
        cameras: JSON file of cameras.
        frames: Number of them.
        width: Pixels.
        height: Pixels.
        fps: Frames a second.
        elevation: Of the camera, degrees.
        last_elevation: Where a spiral ends, degrees.
        azimuth: Where the camera begins, degrees; 0 sees the front.
        turns: Of a spiral.
        distance: Of the camera from the origin.
        focal: Focal length in image widths.
        light: Position of a lamp; repeat x y z for more lamps.
        brightness: Of each lamp.
        ambient: Light from everywhere.
        environment: Panorama whose light falls in, in the place of the ambient light: any
            usual picture, or Radiance .hdr.
        background: Three numbers for a plain colour, "none" for opacity in the file, or
            "environment" for the panorama itself.
        shadows: March the way to each lamp.
    """

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    output: Path = Path("outputs/render.mp4")
    path: Literal["orbit", "spiral"] = "orbit"
    cameras: Path | None = None
    frames: int = 48
    width: int = 256
    height: int = 256
    fps: float = 24.0
    elevation: float = 20.0
    last_elevation: float = 60.0
    azimuth: float = 0.0
    turns: float = 2.0
    distance: float = 1.3
    focal: float = 1.1
    light: tuple[float, ...] = (1.5, -1.5, 2.0)
    brightness: float = 0.8
    ambient: float = 0.3
    environment: Path | None = None
    background: Background = (LIGHT_GREY, LIGHT_GREY, LIGHT_GREY)
    shadows: bool = False


def check(arguments: Arguments) -> None:
    """Refuses what makes no sense, before anything is loaded.

    Raises:
        ValueError: Names the option.
    """
    if not arguments.scenes:
        raise UsageError("name a run to draw, for example outputs/a-red-mushroom-seed0")
    check_frames(arguments.output, opacity=arguments.background == "none")
    for name in ("frames", "width", "height", "fps", "distance", "focal"):
        if getattr(arguments, name) <= 0:
            raise UsageError(f"--{name} must be above 0, not {getattr(arguments, name):g}")
    for name in ("brightness", "ambient"):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name} must not be negative, not {getattr(arguments, name):g}")
    if len(arguments.light) % 3:
        raise UsageError("--light takes three numbers for each lamp")
    if arguments.background == "environment" and arguments.environment is None:
        raise UsageError("--background environment needs --environment")


def load_scenes(path: Path) -> tuple[Placed, ...]:
    """One scene as it is, or those of a JSON file.

    Raises:
        ValueError: It cannot be read.
        OSError: See there.
    """
    return load_layout(path) if path.suffix == ".json" else (TrainedScene.load(path).placed(),)


def choose_cameras(arguments: Arguments) -> Camera:
    """The cameras [V] that the command line asks for."""
    if arguments.cameras is not None:
        return read_cameras(arguments.cameras)
    low, high, start = (
        math.radians(x) for x in (arguments.elevation, arguments.last_elevation, arguments.azimuth)
    )
    if arguments.path == "spiral":
        return spiral(
            arguments.frames,
            (low, high),
            arguments.distance,
            arguments.focal,
            arguments.turns,
            start,
        )
    return orbit(arguments.frames, low, arguments.distance, arguments.focal, start)


def outputs(arguments: Arguments) -> list[Path]:
    """The file of each scene.

    Raises:
        UsageError: Two scenes have the same name.
    """
    if len(arguments.scenes) == 1:
        return [arguments.output]
    names = [scene.resolve().stem for scene in arguments.scenes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two scenes are called {name}; draw them one by one")
    return [arguments.output.with_stem(f"{arguments.output.stem}-{name}") for name in names]


def draw(arguments: Arguments, scene: Path, output: Path) -> tuple[Path, ...]:
    """Draws a scene as the command line asks for; returns the files."""
    panorama = read_panorama(arguments.environment) if arguments.environment else None
    around = uniform(jnp.full(3, arguments.ambient)) if panorama is None else prefilter(panorama)
    lamps = jnp.asarray(arguments.light, jnp.float32).reshape(-1, 3)
    light = Illumination(lamps, jnp.full(lamps.shape, arguments.brightness), around)
    cameras, scenes = choose_cameras(arguments), load_scenes(scene)
    pictures = []
    for i in range(cameras.focal.shape[0]):
        camera = jax.tree.map(lambda x, i=i: x[i], cameras)
        say(f"frame {i + 1} of {cameras.focal.shape[0]}")
        seen = render_view(
            scenes,
            light,
            camera,
            height=arguments.height,
            width=arguments.width,
            shadows=arguments.shadows,
        )
        pictures.append(finish(seen, camera, arguments.background, panorama))
    output.parent.mkdir(parents=True, exist_ok=True)
    return save_frames(output, np.stack(pictures), arguments.fps)


def finish(
    seen: Seen, camera: Camera, background: Background, panorama: np.ndarray | None
) -> np.ndarray:
    """A view with what is to be behind it [H, W, 3], or its opacity [H, W, 4]."""
    if background == "none":
        return with_opacity(seen)
    if isinstance(background, tuple):
        return over_colour(seen, background)
    assert panorama is not None  # See `check`.
    return over_panorama(seen, camera, panorama)


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        check(arguments)
        files = outputs(arguments)
        keep_compiled_programs()
        for scene, output in zip(arguments.scenes, files, strict=True):
            for path in draw(arguments, scene, output):
                say(str(path))


if __name__ == "__main__":
    as_program(main)

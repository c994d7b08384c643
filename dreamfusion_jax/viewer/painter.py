"""Keeps what every open window shows up to date: coarse while it moves, fine once it is still."""

import collections
import dataclasses
import math
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.checks import check_count
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.viewer.drawing import DrawnScene, Interrupted, Picture
from dreamfusion_jax.viewer.seen import Kind

if TYPE_CHECKING:
    import viser

_STILL = 0.25
"""Seconds without a movement after which a window counts as still."""

_RECENT = 20
"""Coarse pictures whose times the rate is the mean of."""

_FLIP = np.array([1.0, -1.0, -1.0])
"""viser's cameras look along +z with y down, ours along -z with y up."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Height and width of a window's shorter side, pixels.

    Attributes:
        coarse: While it moves.
        fine: When it is still.

    Raises:
        SettingError: One of them is smaller than 16.
    """

    coarse: int = 128
    fine: int = 256

    def __post_init__(self) -> None:
        check_count(self, "coarse", "fine", least=16)


SIZES = Sizes()
"""What two CPU cores keep up with."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What windows show.

    Attributes:
        drawn: The scene.
        kind: How it is painted.
        lighting: Its light.
    """

    drawn: DrawnScene
    kind: Kind
    lighting: Lighting


class _Window:
    """An open window, and how far its picture has come since it last moved."""

    def __init__(self, client: "viser.ClientHandle") -> None:
        self.client = client
        self.touch()

    def touch(self) -> None:
        self.moved, self.stage = time.monotonic(), 0

    def still(self) -> bool:
        return time.monotonic() - self.moved > _STILL


class Painter(threading.Thread):
    """Draws for all windows, one picture at a time; other work with the scene waits in line.

    Args:
        server: Its clients are the windows.
        subject: What they show; None while there is nothing yet.
        sizes: Of the pictures.
    """

    def __init__(
        self,
        server: "viser.ViserServer",
        subject: Callable[[], Subject | None],
        sizes: Sizes = SIZES,
    ) -> None:
        super().__init__(name="painter", daemon=True)
        self._server, self._subject, self.sizes = server, subject, sizes
        self._windows: dict[int, _Window] = {}
        self._jobs: collections.deque[Callable[[], None]] = collections.deque()
        self._times: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._wake, self._ended = threading.Event(), threading.Event()
        server.on_client_connect(self._open)
        server.on_client_disconnect(self._close)

    @property
    def rate(self) -> float:
        """Coarse pictures that can be drawn in a second; 0 before the first."""
        return len(self._times) / sum(self._times) if self._times else 0.0

    @property
    def watched(self) -> bool:
        """Whether a window is open."""
        return bool(self._windows)

    def touch(self) -> None:
        """What is shown has changed: all windows are drawn anew."""
        for window in list(self._windows.values()):
            window.touch()
        self._wake.set()

    def ask(self, job: Callable[[], None]) -> None:
        """Calls a function, before any other drawing, in the painter's thread."""
        self._jobs.append(job)
        self._wake.set()

    def end(self) -> None:
        """Stops drawing; returns when it has."""
        self._ended.set()
        self._wake.set()
        self.join()

    def run(self) -> None:
        """See `threading.Thread`."""
        while not self._ended.is_set():
            if not self._work():
                self._wake.wait(0.05)
                self._wake.clear()

    def shot(self, client: "viser.ClientHandle", subject: Subject) -> Picture:
        """What a window shows, drawn finely."""
        camera, height, width = _camera_of(client, self.sizes.fine)
        return subject.drawn.careful(
            camera, subject.lighting, height, width, given_up=self._ended.is_set
        )

    def _open(self, client: "viser.ClientHandle") -> None:
        window = self._windows[client.client_id] = _Window(client)

        @client.camera.on_update
        def _(_: object) -> None:
            window.touch()
            self._wake.set()

        self._wake.set()

    def _close(self, client: "viser.ClientHandle") -> None:
        self._windows.pop(client.client_id, None)

    def _work(self) -> bool:
        """Does the most urgent thing; whether there was one."""
        if self._jobs:
            self._jobs.popleft()()
            return True
        subject, windows = self._subject(), list(self._windows.values())
        if subject is None:
            return False
        for window in windows:
            if window.stage == 0:
                self._advance(window, subject)
                return True
        for window in windows:
            if window.stage < 3 and window.still():
                self._advance(window, subject)
                return True
        return False

    def _advance(self, window: _Window, subject: Subject) -> None:
        """Draws the next better picture of a window, unless something moves meanwhile."""
        begun, stage, drawn = time.monotonic(), window.stage, subject.drawn
        size = self.sizes.fine if stage else self.sizes.coarse
        moved = window.moved
        camera, height, width = _camera_of(window.client, size)
        if stage < 2:
            picture = drawn.quick(camera, subject.lighting, height, width)
        else:
            try:
                picture = drawn.careful(
                    camera, subject.lighting, height, width, given_up=self._interrupted
                )
            except Interrupted:
                return
        with warnings.catch_warnings():
            # It may have been closed meanwhile, which viser remarks upon.
            warnings.filterwarnings("ignore", "Queued a .* on a closed connection")
            window.client.scene.set_background_image(
                picture.painted(subject.kind, drawn.radius),
                format="jpeg",
                jpeg_quality=92 if stage else 80,
                depth=picture.plane_depth,
            )
        if stage == 0:
            self._times.append(time.monotonic() - begun)
        if window.moved == moved:
            window.stage = stage + 1

    def _interrupted(self) -> bool:
        moving = any(window.stage == 0 for window in list(self._windows.values()))
        return moving or bool(self._jobs) or self._ended.is_set()


def _camera_of(client: "viser.ClientHandle", shorter: int) -> tuple[Camera, int, int]:
    """A window's camera, and height and width of a picture whose shorter side is so long."""
    import viser.transforms as transforms

    seen = client.camera
    aspect = max(seen.aspect, 1e-3)
    height, width = (
        (shorter, round(shorter * aspect)) if aspect >= 1 else (round(shorter / aspect), shorter)
    )
    rotation = transforms.SO3(np.asarray(seen.wxyz)).as_matrix() * _FLIP
    camera = Camera(
        position=jnp.asarray(seen.position, jnp.float32),
        rotation=jnp.asarray(rotation, jnp.float32),
        focal=jnp.asarray(0.5 * height / (width * math.tan(0.5 * seen.fov)), jnp.float32),
    )
    return camera, height, width

"""The page that shows scenes: a field to be turned, its light, its mesh, pictures to take away."""

import io
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamfusion_jax.export.mesh import MeshConfig
from dreamfusion_jax.looks.media import save_video
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import orbit
from dreamfusion_jax.viewer.baked import RESOLUTION
from dreamfusion_jax.viewer.controls import Lamp, MeshBeside, Paint
from dreamfusion_jax.viewer.drawing import DrawnScene, Interrupted
from dreamfusion_jax.viewer.painter import SIZES, Painter, Sizes, Subject
from dreamfusion_jax.viewer.server import LOCAL, PORT, address_of, close_server, open_server

if TYPE_CHECKING:
    import viser

_DISTANCE, _FOCAL, _AZIMUTH, _ELEVATION = 2.5, 1.1, 30.0, 20.0
"""Of the first camera: radii from the origin, window heights, degrees."""
_BESIDE = 1.5
"""How far to the right of the scene its mesh stands, radii."""
_FRAMES, _FPS = 48, 24.0
_MESH_RESOLUTION = 96


class Viewer:
    """Serves scenes to browsers until it is closed.

    Args:
        title: Of the panel with the controls.
        radius: Of the scenes, world units: how far away the first camera stands.
        host: Address to listen at; the default is seen from this machine alone.
        port: 0 takes any that is free.
        sizes: Of the pictures.

    Raises:
        PortError: The port is taken, or the address is not this machine's.
        MissingExtraError: viser is not installed.
    """

    def __init__(
        self,
        title: str,
        radius: float,
        host: str = LOCAL,
        port: int = PORT,
        sizes: Sizes = SIZES,
    ) -> None:
        self.server = open_server(host, port, title)
        self._drawn: DrawnScene | None = None
        self.painter = Painter(self.server, self._subject, sizes)
        self._place_camera(radius)
        self._paint = Paint(self.server, self.painter.touch)
        self._lamp = Lamp(self.server, radius, self.painter.touch)
        self._mesh = MeshBeside(self.server, lambda: self.painter.ask(self._extract))
        self._add_files()
        self._name = title
        self.painter.start()

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return address_of(self.server)

    def offer(self, scenes: Mapping[str, TrainedScene]) -> None:
        """Shows the first of some scenes, and lets visitors choose another by its name."""
        names = list(scenes)
        self.show(scenes[names[0]], names[0])
        if len(names) > 1:
            choice = self.server.gui.add_dropdown("run", names)
            choice.on_update(
                lambda _: self.painter.ask(lambda: self.show(scenes[choice.value], choice.value))
            )

    def show(self, scene: TrainedScene, name: str, resolution: int = RESOLUTION) -> None:
        """Shows a scene in all windows.

        Args:
            scene: The scene.
            name: Begins the names of files that are taken away.
            resolution: Of the grid that stands for it while it moves.
        """
        self._drawn, self._name = DrawnScene(scene, resolution), name
        self._mesh.renew()
        self.painter.touch()

    def close(self) -> None:
        """Closes all windows' connections and the port."""
        self.painter.end()
        close_server(self.server)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _subject(self) -> Subject | None:
        if self._drawn is None:
            return None
        return Subject(self._drawn, self._paint.kind, self._lamp.lighting)

    def _place_camera(self, radius: float) -> None:
        first = orbit(1, math.radians(_ELEVATION), _DISTANCE * radius, 1.0, math.radians(_AZIMUTH))
        camera = self.server.initial_camera
        camera.position = np.asarray(first.position[0], np.float64)
        camera.look_at, camera.up = (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)
        camera.fov = 2 * math.atan(0.5 / _FOCAL)

    def _add_files(self) -> None:
        gui = self.server.gui
        gui.add_button("screenshot").on_click(lambda event: self._give(event.client, self._png))
        gui.add_button("turntable").on_click(lambda event: self._give(event.client, self._mp4))

    def _give(
        self,
        client: "viser.ClientHandle | None",
        make: Callable[["viser.ClientHandle", Subject], tuple[str, bytes]],
    ) -> None:
        """Makes a file in the painter's thread, for one visitor to download."""

        def job() -> None:
            subject = self._subject()
            if client is None or subject is None:
                return
            try:
                name, content = make(client, subject)
            except Interrupted:
                return
            client.send_file_download(name, content, save_immediately=True)

        self.painter.ask(job)

    def _png(self, client: "viser.ClientHandle", subject: Subject) -> tuple[str, bytes]:
        from PIL import Image

        picture = self.painter.shot(client, subject).painted(subject.kind, subject.drawn.radius)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="png")
        return f"{self._name}-{subject.kind}.png", file.getvalue()

    def _mp4(self, client: "viser.ClientHandle", subject: Subject) -> tuple[str, bytes]:
        """The scene turning once at the height and distance of a visitor's camera."""
        size, drawn = self.painter.sizes.fine, subject.drawn
        position = np.asarray(client.camera.position)
        distance = float(np.linalg.norm(position))
        elevation = math.asin(position[2] / distance)
        cameras = orbit(_FRAMES, elevation, distance, _FOCAL)
        frames = []
        for at in range(_FRAMES):
            camera = type(cameras)(cameras.position[at], cameras.rotation[at], cameras.focal[at])
            picture = drawn.quick(camera, subject.lighting, size, size)
            frames.append(picture.painted(subject.kind, drawn.radius) / np.float32(255))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "turntable.mp4"
            save_video(path, np.stack(frames), _FPS)
            return f"{self._name}-{subject.kind}.mp4", path.read_bytes()

    def _extract(self) -> None:
        drawn = self._drawn
        if drawn is None:
            return
        try:
            mesh = drawn.scene.mesh(MeshConfig(_MESH_RESOLUTION, texture=0))
        except ValueError as error:
            self._tell("there is no mesh", str(error))
            return
        azimuth = math.radians(_AZIMUTH)
        right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        self._mesh.show(mesh, _BESIDE * drawn.radius * right)

    def _tell(self, title: str, body: str) -> None:
        for client in self.server.get_clients().values():
            client.add_notification(title, body, color="red")

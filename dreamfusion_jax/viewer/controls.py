"""What the page lets its visitors choose: how to paint, the light, the mesh, files."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.viewer.seen import Kind

if TYPE_CHECKING:
    import viser
    from trimesh import Trimesh

_AMBIENT, _DIFFUSE = 0.35, 0.65
_DIRECTION = (-20.0, 45.0)
"""Azimuth and elevation of the lamp at first, degrees."""

_UPRIGHT = (0.5, 0.5, 0.5, 0.5)
"""A quaternion: files of meshes are y up with the front towards z, scenes z up, the front x."""

_LAMP, _LIGHT = 0.9, 3.0
"""Where the lamp hangs and where its light comes from, radii of the scene."""


class Lamp:
    """A point light whose direction is chosen by sliders, or by dragging a lamp in the scene.

    The lamp hangs at the edge of the scene; the light itself comes from farther away.

    Args:
        server: Of the page.
        radius: Of the scene, world units.
        changed: Called when the light has changed.
    """

    def __init__(
        self, server: "viser.ViserServer", radius: float, changed: Callable[[], None]
    ) -> None:
        self._radius, self._changed = radius, changed
        with server.gui.add_folder("Light"):
            azimuth, elevation = _DIRECTION
            self.azimuth = server.gui.add_slider("azimuth", -180.0, 180.0, 1.0, azimuth)
            self.elevation = server.gui.add_slider("elevation", -90.0, 90.0, 1.0, elevation)
            self.ambient = server.gui.add_slider("ambient", 0.0, 1.0, 0.01, _AMBIENT)
            self.diffuse = server.gui.add_slider("diffuse", 0.0, 1.0, 0.01, _DIFFUSE)
        self._handle = server.scene.add_transform_controls(
            "/lamp", scale=0.2 * radius, disable_rotations=True, depth_test=False
        )
        server.scene.add_icosphere("/lamp/bulb", radius=0.03 * radius, color=(255, 200, 60))
        # The mesh is lit by the same light; three.js divides what a surface sends back by pi.
        server.scene.configure_default_lights(False)
        server.scene.configure_environment_map(None)
        self._point = server.scene.add_light_point("/light", decay=0.0)
        self._around = server.scene.add_light_ambient("/ambient")
        self._turn()
        self._handle.on_update(lambda _: self._dragged())
        for slider in (self.azimuth, self.elevation):
            slider.on_update(lambda event: None if event.client is None else self._turn())
        for slider in (self.ambient, self.diffuse):
            slider.on_update(lambda _: self._shine())

    @property
    def lighting(self) -> Lighting:
        """The light as it stands."""
        return Lighting(
            position=jnp.asarray(_LIGHT * self._radius * self._direction(), jnp.float32),
            ambient=jnp.asarray(self.ambient.value, jnp.float32),
            diffuse=jnp.asarray(self.diffuse.value, jnp.float32),
            textureless=jnp.asarray(False),
        )

    def _direction(self) -> np.ndarray:
        azimuth, elevation = np.deg2rad([self.azimuth.value, self.elevation.value])
        flat = np.cos(elevation)
        return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])

    def _dragged(self) -> None:
        """The lamp was dragged: the sliders follow."""
        x, y, z = (float(value) for value in self._handle.position)
        self.azimuth.value = round(math.degrees(math.atan2(y, x)))
        self.elevation.value = round(math.degrees(math.atan2(z, math.hypot(x, y))))
        self._shine()

    def _turn(self) -> None:
        """A slider was moved: the lamp follows."""
        self._handle.position = _LAMP * self._radius * self._direction()
        self._shine()

    def _shine(self) -> None:
        self._point.position = _LIGHT * self._radius * self._direction()
        self._point.intensity = math.pi * self.diffuse.value
        self._around.intensity = math.pi * self.ambient.value
        self._changed()


class Paint:
    """How the picture is painted.

    Args:
        server: Of the page.
        changed: Called when another kind was chosen.
    """

    def __init__(self, server: "viser.ViserServer", changed: Callable[[], None]) -> None:
        self._choice = server.gui.add_dropdown("picture", get_args(Kind))
        self._choice.on_update(lambda _: changed())

    @property
    def kind(self) -> Kind:
        """What was chosen."""
        return self._choice.value


class MeshBeside:
    """A box to tick for the extracted mesh, to the right of the scene as seen from the front.

    Args:
        server: Of the page.
        wanted: Called when it is ticked; brings the mesh by `show` when it is ready.
    """

    def __init__(self, server: "viser.ViserServer", wanted: Callable[[], None]) -> None:
        self._server, self._wanted = server, wanted
        self._offset: np.ndarray | None = None
        self._box = server.gui.add_checkbox("mesh beside it", False)
        self._box.on_update(lambda _: self.renew())

    def renew(self) -> None:
        """Asks for the mesh if there should be one: the box was ticked, or the scene changed."""
        if self._box.value:
            self._wanted()
        else:
            self.hide()

    def show(self, mesh: "Trimesh", offset: np.ndarray) -> None:
        """Puts a mesh beside the scene, as its file shows it elsewhere.

        Args:
            mesh: In the scene's frame.
            offset: How far beside, [3], world units.
        """
        if not self._box.value:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mesh.glb"
            save_mesh(mesh, path)
            content = path.read_bytes()
        self._server.scene.add_glb("/mesh", content, wxyz=_UPRIGHT, position=offset)
        if self._offset is None:
            self._look_beside(0.5 * offset)
        self._offset = offset

    def hide(self) -> None:
        """Takes it away."""
        if self._offset is not None:
            self._server.scene.remove_by_name("/mesh")
            self._look_beside(np.zeros(3))
            self._offset = None

    def _look_beside(self, point: np.ndarray) -> None:
        """Turns all windows to a point beside the scene."""
        for client in self._server.get_clients().values():
            client.camera.look_at = point

"""A trained scene: what everything after training takes, whatever trained it."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dreamfusion_jax.compose.render import Placed
from dreamfusion_jax.export.mesh import MeshConfig, extract_mesh
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.looks.latents import ColourMap, Decoder, scene_colours
from dreamfusion_jax.looks.views import Looks, look_around
from dreamfusion_jax.presets import OutputConfig
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError, load_config
from dreamfusion_jax.runs.settings import RunSettings, from_json, read_settings, to_json
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.scene.image import as_drawn
from dreamfusion_jax.scene.lighting import LIGHT_GREY, Lighting
from dreamfusion_jax.scene.render import SceneModel

if TYPE_CHECKING:
    from trimesh import Trimesh

SUFFIX = ".safetensors"
_FORMAT, _KEY = 1, "dreamfusion_jax"
_COLOUR_VIEWS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedScene:
    """A scene with its parameters, ready to be looked at and exported.

    Attributes:
        model: Field, background and sampling.
        params: Their parameters.
        variance: lambda_Sigma of the finished scene, the blur of the field's queries.
        decoder: Makes pictures of a latent scene; None for all others.
        about: What is known of its making, such as its prompt.
    """

    model: SceneModel
    params: Params
    variance: Float[Array, ""]
    decoder: Decoder | None = None
    about: dict[str, str] = dataclasses.field(default_factory=dict)

    def look(
        self,
        cameras: Camera,
        lighting: Lighting | None = None,
        *,
        size: int = 128,
        backdrop: float = LIGHT_GREY,
    ) -> Looks:
        """What cameras [V] see: colour, shaded, textureless, normals and opacity.

        Args:
            cameras: Where to look from.
            lighting: [V] lights; None for one above and beside each camera.
            size: Height and width, pixels.
            backdrop: Grey behind the object, in the place of the scene's own background.

        Raises:
            ValueError: A latent scene without a decoder.
        """
        return look_around(
            self.model,
            self.params,
            cameras,
            lighting,
            size=size,
            variance=self.variance,
            backdrop=backdrop,
            decoder=self.decoder,
        )

    def colours(self, cameras: Camera | None = None) -> ColourMap | None:
        """What makes colours of a latent scene's points; None for all others.

        Args:
            cameras: [V] views that it is fitted to; None for eight around the scene.

        Raises:
            ValueError: A latent scene without a decoder.
        """
        if not self.model.latent:
            return None
        if self.decoder is None:
            raise ValueError("a latent scene is looked at through a decoder")
        cameras = OutputConfig().cameras(_COLOUR_VIEWS) if cameras is None else cameras
        return scene_colours(self.decoder, self.model, self.params, cameras, variance=self.variance)

    def query(
        self, cameras: Camera | None = None
    ) -> Callable[[Float[Array, "P 3"]], tuple[Float[Array, "P"], Float[Array, "P 3"]]]:
        """A function from points to their density, per world unit, and colour.

        Args:
            cameras: Of a latent scene, see `colours`.

        Raises:
            ValueError: A latent scene without a decoder.
        """
        colours = self.colours(cameras)

        @jax.jit
        def query(params: Params, points: jax.Array) -> tuple[jax.Array, jax.Array]:
            spread = jnp.broadcast_to(self.variance, points.shape[:-1])
            density, albedo = self.model.field(params["field"], points, spread)
            return density, albedo if colours is None else colours(albedo)

        return functools.partial(query, self.params)

    def mesh(
        self,
        config: MeshConfig | None = None,
        *,
        threshold: float | None = None,
        cameras: Camera | None = None,
    ) -> "Trimesh":
        """The surface of the scene as a coloured mesh; see `export.mesh.extract_mesh`.

        Args:
            config: Fineness, and whether it gets a texture; None for the usual.
            threshold: Density at the surface; None lets the silhouettes choose it.
            cameras: Of a latent scene, see `colours`.

        Raises:
            ValueError: The scene is empty, or latent without a decoder.
        """
        query = self.query(cameras)
        return extract_mesh(
            lambda points: query(points)[0],
            lambda points: query(points)[1],
            radius=self.model.sampling.radius,
            config=config or MeshConfig(),
            threshold=threshold,
        )

    def placed(
        self,
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
        turn: float = 0.0,
        size: float = 1.0,
    ) -> Placed:
        """The scene at a place in a larger one; see `compose.render`.

        Args:
            position: Of its origin, world units.
            turn: Around z, radians, counterclockwise from above.
            size: World units that one unit of the scene becomes.

        Raises:
            ValueError: A latent scene without a decoder.
        """
        cosine, sine = math.cos(turn), math.sin(turn)
        rotation = jnp.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        place, scale = jnp.asarray(position, jnp.float32), jnp.asarray(size, jnp.float32)
        return Placed(
            as_drawn(self.model),
            self.params,
            self.variance,
            self.colours(),
            rotation,
            place,
            scale,
        )

    def save(self, path: Path | str) -> None:
        """Writes one file with all that is needed to look at the scene and to export it.

        Args:
            path: Its name ends in ".safetensors". A latent scene's decoder is not in it.

        Raises:
            ValueError: Another suffix.
            OSError: It cannot be written.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise ValueError(f"a scene is written as {SUFFIX}, not as {path.suffix!r}")
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.params)
        arrays = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
        description = {
            "format": _FORMAT,
            "scene": to_json(self.model, _SCENE),
            "variance": float(self.variance),
            "about": self.about,
        }
        # One entry: of several, safetensors does not keep the order, and files would differ.
        metadata = {_KEY: json.dumps(description)}
        # As bytes: `save_file` lets nobody but the owner read what it writes.
        write_whole(path, save(arrays, metadata))

    @classmethod
    def load(cls, path: Path | str, decoder: Decoder | None = None) -> "TrainedScene":
        """Reads a run's folder, or a file that `save` wrote.

        Args:
            path: The folder or the file. Of a run that is under way, its last checkpoint.
            decoder: Of a latent scene, where it is in memory already; a run's folder names the
                prior that it is otherwise read from.

        Raises:
            CheckpointError: There is no such folder or file, or it is not a run's.
            WeightsError: The prior of a latent scene cannot be had.
        """
        path = Path(path)
        if path.suffix == SUFFIX and not path.is_dir():
            return _load_file(path, decoder)
        settings = read_settings(load_config(path), path)
        return load_scene(path, settings, decoder)


def load_scene(folder: Path, settings: RunSettings, decoder: Decoder | None = None) -> TrainedScene:
    """The scene of a run's folder whose settings have been read; see `TrainedScene.load`."""
    model, train = settings.config.scene, settings.config.train
    template = jax.eval_shape(model.init, jax.random.key(0))
    with Checkpointer(folder) as checkpoints:
        params = checkpoints.restore_part(template, ".params")
    if model.latent and decoder is None:
        decoder = Decoder(*settings.load_prior())
    blur = train.variance.at_end(train.steps)
    return TrainedScene(model, params, blur, decoder, settings.about)


_SCENE: Any = SceneModel[GridField | HashField | MlpField]


def _load_file(path: Path, decoder: Decoder | None) -> TrainedScene:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if description.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a scene of this package")
    model = from_json(description["scene"], _SCENE)
    template = jax.eval_shape(model.init, jax.random.key(0))

    def leaf(at: Any, expected: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(at)
        if name not in arrays or arrays[name].shape != expected.shape:
            raise CheckpointError(f"{path} does not fit its own description: {name}")
        return jnp.asarray(arrays[name])

    params = jax.tree_util.tree_map_with_path(leaf, template)
    variance = jnp.asarray(description["variance"], jnp.float32)
    return TrainedScene(model, params, variance, decoder, description["about"])

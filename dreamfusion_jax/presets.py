"""Presets: the settings of a whole run, as values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dreamfusion_jax.checks import POSITIVE, SHARE, Range, check_count, check_range
from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.losses import LossConfig
from dreamfusion_jax.distillation.rates import PartRates
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.time import FROM_MUCH_NOISE, TimeConfig
from dreamfusion_jax.distillation.train import TrainConfig
from dreamfusion_jax.priors.loading import PriorName
from dreamfusion_jax.priors.prompts import PromptConfig
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import Camera, CameraConfig, orbit
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.lighting import LIGHT_GREY, LightingConfig
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel
from dreamfusion_jax.schedules import Ramp
from dreamfusion_jax.toybox.bank import NARROW_CAMERAS, SOFT_LIGHTING


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """What a run writes.

    Attributes:
        preview_every: Steps between previews.
        preview_size: Height and width of the previews' tiles, pixels.
        checkpoint_every: Steps between checkpoints.
        size: Height and width of preview.png's tiles and of the turntable, pixels.
        frames: Of the turntable.
        elevation: Of the turntable's and the preview's cameras, degrees.
        distance: Of those cameras from the origin.
        focal: Of those cameras, image widths.
        mesh_resolution: Samples along each axis of the marching-cubes grid.
        mesh_faces: Most faces of the mesh; 0 for any number.
        mesh_texture: Height and width of the mesh's texture, texels; 0 for vertex colours.
        backdrop: Grey behind scenes without a background of their own.

    Raises:
        SettingError: A number is out of its range.
    """

    preview_every: int = 100
    preview_size: int = 64
    checkpoint_every: int = 200
    size: int = 128
    frames: int = 48
    elevation: float = 20.0
    distance: float = 1.3
    focal: float = 1.1
    mesh_resolution: int = 96
    mesh_faces: int = 10_000
    mesh_texture: int = 512
    backdrop: float = LIGHT_GREY

    def __post_init__(self) -> None:
        check_count(self, "preview_every", "preview_size", "checkpoint_every", "size", "frames")
        check_count(self, "mesh_resolution", least=2)
        check_count(self, "mesh_faces", "mesh_texture", least=0)
        check_range(self, Range(-90.0, 90.0), "elevation")
        check_range(self, POSITIVE, "distance", "focal")
        check_range(self, SHARE, "backdrop")

    def cameras(self, num_views: int) -> Camera:
        """Cameras [num_views] evenly around the scene, of the preview and the turntable."""
        return orbit(num_views, math.radians(self.elevation), self.distance, self.focal)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        scene: Field, background and sampling.
        train: The optimisation.
        output: What is written.
    """

    scene: SceneModel[GridField | HashField | MlpField]
    train: TrainConfig
    output: OutputConfig = OutputConfig()


def changed(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    """A configuration with other values of some settings.

    Args:
        config: What to change.
        changes: Dotted names, such as "train.distillation.guidance_weight", and their values.

    Raises:
        ValueError: There is no such setting.
    """
    for name, value in changes.items():
        config = _replace(config, name.split("."), value, name)
    return config


def _replace(config: Any, path: list[str], value: object, name: str) -> Any:
    first, *rest = path
    if first not in {field.name for field in dataclasses.fields(config)}:
        raise ValueError(f"there is no setting {name}")
    inner = _replace(getattr(config, first), rest, value, name) if rest else value
    return dataclasses.replace(config, **{first: inner})


PAPER = RunConfig(
    scene=SceneModel(field=MlpField()),
    train=TrainConfig(),
    output=OutputConfig(preview_every=1000, checkpoint_every=1000, distance=1.4, focal=0.9),
)
"""Every number of the paper, for a large prior in Imagen's place.

Departure: see `Density` for the thin start, and `CameraConfig` for the spread of the cameras.

Run with the oracle, and as `PAPER_SMALL` with the embedded prior; not with real weights.
"""

# As many lit pictures as the prior was trained on.
_SOFT_LIGHTS = dataclasses.replace(SOFT_LIGHTING, albedo_until=1 / 4)

SEEN_BY_SMALL_PRIOR: Mapping[str, object] = {
    # Told how large objects are, in pictures that are most of what it has seen.
    "train.cameras": NARROW_CAMERAS,
    "train.prompts": PromptConfig(details=True),
    "train.time": FROM_MUCH_NOISE,
    # It was not trained to be guided as strongly as a prior of every picture there is.
    "train.distillation": Sds(guidance_weight=5.0, clip_denoised=True),
}
"""What the embedded prior asks of any preset that was made for a larger one."""

FOR_SMALL_PRIOR: Mapping[str, object] = {
    **SEEN_BY_SMALL_PRIOR,
    # A learned background draws the prompt itself, and the object fades away.
    "scene.background": None,
    # It has seen objects over any plain colour: the end of the paper's range, and opacities that
    # decide once there is an object, keep a haze from taking a backdrop's place.
    "train.losses": LossConfig(opacity=5e-3, entropy=Ramp(0.0, 0.3, until=4 / 5, begin=2 / 5)),
    # It was not trained on pictures whose dark side is nearly black, or on white surfaces: it takes
    # a dark stalk for background. As for `TOYBOX`, colours come first.
    "train.lighting": _SOFT_LIGHTS,
    # Fewer and cheaper steps, so that a CPU gets there in an hour: a fifteenth of their number,
    # a quarter of the views, a normal a ray; and a rate that goes nearly as far in them.
    "train.steps": 1000,
    "train.views": 1,
    "scene.sampling.normals": "ray",
    "train.optimizer.learning_rate": 5e-4,
    "output": OutputConfig(checkpoint_every=100),
}
"""Departures of `PAPER_SMALL` from `PAPER`; docs/presets.md tells which of them are necessary."""


TOYBOX = RunConfig(
    scene=SceneModel(
        field=GridField(),
        sampling=SamplingConfig(radius=0.62, proposals=(), intervals=24, normals="ray"),
        background=None,
    ),
    train=TrainConfig(
        steps=600,
        views=4,
        variance=Ramp(0.0, 0.0, 0.0),
        optimizer=AdamConfig(learning_rate=0.1),
        prompts=PromptConfig(views="octants", details=True),
        cameras=NARROW_CAMERAS,
        lighting=_SOFT_LIGHTS,
        # Some times of much noise to the end: without them a dark albedo passes for the side away
        # from the light.
        time=FROM_MUCH_NOISE,
        distillation=Sds(guidance_weight=5.0, weighting="image", clip_denoised=True),
        losses=LossConfig(
            orientation=Ramp(1e-2, 1e-1, 5 / 6),
            opacity=0.01,
            entropy=Ramp(0.02, 1.0, 3 / 4),  # Else a haze fills the sphere.
        ),
    ),
    output=OutputConfig(size=256),
)
"""The default: the best result that a CPU reaches in a few minutes."""

PAPER_SMALL = changed(PAPER, FOR_SMALL_PRIOR)
"""The paper's field, sampling, losses and optimizer, with the embedded prior."""

QUALITY = dataclasses.replace(
    TOYBOX,
    train=dataclasses.replace(TOYBOX.train, steps=2000),
    output=OutputConfig(size=256, frames=72, mesh_resolution=128),
)
"""`TOYBOX` with more patience."""

# What threestudio calls blob_magic3d.
_CONE = Density(bias=0.0, strength=10.0, width=0.5, activation="softplus", shape="cone")
COARSE_TO_FINE = Ramp(2.5e-5, 1e-8, until=3 / 5, begin=1 / 5, course="geometric")
"""The blur for `HashField`: 8 levels of 16 up to a fifth of the run, then one by one up to 3/5."""

# Sums over 64 x 64 positions there are means here.
_POSITIONS = 64 * 64
_RADIUS = 1.4

FAST_SD = RunConfig(
    scene=SceneModel(
        field=HashField(radius=_RADIUS, density=_CONE),
        sampling=SamplingConfig(radius=_RADIUS, proposals=(), intervals=128),
        background=EnvironmentMap(width=16, blocks=1, frequencies=2),
    ),
    train=TrainConfig(
        steps=10_000,
        views=1,
        variance=COARSE_TO_FINE,
        optimizer=AdamConfig(
            learning_rate=0.01, warm_up=1 / 100, parts=PartRates(background=1 / 10)
        ),
        cameras=CameraConfig(elevation=(-10.0, 45.0), distance=(1.5, 2.0), focal=(0.71, 1.37)),
        lighting=LightingConfig(albedo_until=1 / 5, plain_backdrops=0.5),
        losses=LossConfig(
            orientation=Ramp(10 / _POSITIONS, 1000 / _POSITIONS, 1 / 2), opacity=1 / _POSITIONS
        ),
    ),
    output=OutputConfig(
        preview_every=500, checkpoint_every=500, distance=1.75, focal=1.0, size=256
    ),
)
"""Stable Diffusion on a GPU: a hash grid with a small network, one view a step, Adam.

The values are those of threestudio's dreamfusion-sd, which many have run with real weights: field,
its start as a cone, levels from coarse to fine, rates, cameras, lights, guidance and losses.

Departure: 128 even samples of a ray within the paper's sphere, where threestudio has 512 in a
larger cube and leaves out what its occupancy grid calls empty: there is none here. Half of the
views have a plain backdrop, so that the background cannot draw the prompt (stable-dreamfusion).
Rates rise in the first hundredth and fall to a tenth, as threestudio has them for latents.

Run with the oracle and with the embedded prior (docs/presets.md), not with real weights.
"""

LATENT_SD = dataclasses.replace(
    FAST_SD,
    scene=dataclasses.replace(
        FAST_SD.scene,
        field=dataclasses.replace(FAST_SD.scene.field, latent=True),
        sampling=dataclasses.replace(FAST_SD.scene.sampling, normals="ray"),
    ),
    train=dataclasses.replace(
        FAST_SD.train,
        losses=LossConfig(orientation=Ramp(0.0, 0.0, 0.0), opacity=5e-4 / _POSITIONS),
    ),
)
"""`FAST_SD` with a scene of latents (Latent-NeRF, 2211.07600): no VAE in the loop.

The losses are those of threestudio's latentnerf: latents take no light, and normals have no part.

Departure: the same start as `FAST_SD`, not the paper's blob in an exponential, which begins as
fog. Half of the views have a plain latent in the background's place: without it even the oracle of
latents made a car in fog, which passes for a background of one latent.

Run with the oracle of latents (docs/presets.md), not with real weights.
"""

FAST_IF = dataclasses.replace(
    FAST_SD,
    train=dataclasses.replace(
        FAST_SD.train,
        cameras=dataclasses.replace(FAST_SD.train.cameras, elevation=(-10.0, 90.0)),
        distillation=Sds(guidance_weight=20.0, clip_denoised=True),
    ),
)
"""`FAST_SD` for DeepFloyd IF, with the values of threestudio's dreamfusion-if.

Departure: the denoised pictures are clipped to what pixels can be, which guidance leaves otherwise.

Run with the oracle and, being `FAST_SD` there, with the embedded prior; not with real weights.
"""


MVDREAM = dataclasses.replace(
    FAST_SD,
    scene=dataclasses.replace(
        FAST_SD.scene,
        field=dataclasses.replace(FAST_SD.scene.field, radius=1.0),
        sampling=dataclasses.replace(FAST_SD.scene.sampling, radius=1.0),
    ),
    train=dataclasses.replace(
        FAST_SD.train,
        views=4,
        # A field of view of 15 to 60 degrees, from as far as keeps the object's size.
        cameras=CameraConfig(
            elevation=(0.0, 30.0),
            distance=(0.8, 1.0),
            relative=True,
            position_jitter=0.0,
            look_at_std=0.0,
            up_std=0.0,
            focal=(0.87, 3.8),
        ),
        lighting=LightingConfig(albedo_until=1 / 2, plain_backdrops=0.5),
        # The poses say it better than words.
        prompts=PromptConfig(views="none"),
        time=TimeConfig(high=Ramp(0.98, 0.5, 4 / 5), descent=4 / 5),
        distillation=Sds(guidance_weight=49.0, weighting="image", rescale=0.5),
        losses=LossConfig(orientation=Ramp(10 / _POSITIONS, 1000 / _POSITIONS, 1 / 2), opacity=0.0),
        sizes=((1 / 2, 128),),
    ),
    output=dataclasses.replace(FAST_SD.output, distance=2.0, focal=1.1),
)
"""MVDream on a GPU, with the values of threestudio-mvdream's mvdream-sd21-shading.

Its negative prompt is: ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor
lighting, dull, and unclear, cropped, lowres, low quality, artifacts, duplicate, morbid, mutilated,
poorly drawn face, deformed, dehydrated, bad proportions.

Departure: one group of four views a step from the beginning, not two, and in the second half 128
pixels, not 256: without an occupancy grid four views of 256 pixels would be 34 million samples.

Not run with real weights here.
"""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings with what they are made for.

    Attributes:
        name: On the command line.
        prior: The diffusion model that they are made for.
        config: The settings.
        cost: What a run takes, as far as measured.
        promise: What to expect of it, and what of that has been seen.
    """

    name: str
    prior: PriorName
    config: RunConfig
    cost: str
    promise: str


PRESETS = (
    Preset(
        "toybox",
        "toybox",
        TOYBOX,
        "two to four minutes on two CPU cores",
        "a recognisable toy; measured against the truth on 24 objects",
    ),
    Preset(
        "quality",
        "toybox",
        QUALITY,
        "five minutes on two CPU cores",
        "smoother surfaces and a finer mesh, hardly nearer to the truth",
    ),
    Preset(
        "paper",
        "toybox",
        PAPER_SMALL,
        "an hour and ten minutes of one CPU core",
        "DreamFusion's own field, renderer and optimizer; the clearest objects, measured on two",
    ),
    Preset(
        "paper-if",
        "deepfloyd",
        PAPER,
        "an accelerator, hours",
        "DreamFusion's own numbers with DeepFloyd IF; not run with real weights yet",
    ),
    Preset(
        "paper-sd",
        "stable-diffusion",
        PAPER,
        "an accelerator, hours",
        "DreamFusion's own numbers with Stable Diffusion; not run with real weights yet",
    ),
    Preset(
        "fast-if",
        "deepfloyd",
        FAST_IF,
        "an accelerator, under an hour",
        "threestudio's proven values; not run with real weights yet",
    ),
    Preset(
        "fast-sd",
        "stable-diffusion",
        FAST_SD,
        "an accelerator, under an hour",
        "threestudio's proven values; not run with real weights yet",
    ),
    Preset(
        "mvdream",
        "mvdream",
        MVDREAM,
        "an accelerator, an hour",
        "four sides at once, so one face; threestudio's values, not run with real weights yet",
    ),
    Preset(
        "latent-sd",
        "stable-diffusion",
        LATENT_SD,
        "an accelerator, faster than fast-sd",
        "renders latents, which is coarser; not run with real weights yet",
    ),
)
"""Every preset, the default first."""


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    for candidate in PRESETS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"preset must be one of {', '.join(p.name for p in PRESETS)}, not {name!r}")


def usual_preset(prior: PriorName) -> Preset:
    """The preset that a prior is used with where none is named."""
    names: dict[PriorName, str] = {
        "toybox": "toybox",
        "oracle": "toybox",
        "stable-diffusion": "fast-sd",
        "deepfloyd": "fast-if",
        "mvdream": "mvdream",
    }
    return preset(names[prior])

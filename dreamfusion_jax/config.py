"""Presets: the settings of a whole run, as values."""

import dataclasses

from dreamfusion_jax.field import GridField, MlpField
from dreamfusion_jax.losses import LossConfig
from dreamfusion_jax.maths import Ramp
from dreamfusion_jax.prompts import PromptConfig
from dreamfusion_jax.render import SamplingConfig, SceneModel
from dreamfusion_jax.sds import SdsConfig
from dreamfusion_jax.toybox.bank import NARROW_CAMERAS, SOFT_LIGHTING
from dreamfusion_jax.train import AdamConfig, TrainConfig


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
        backdrop: Grey behind scenes without a background of their own.
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
    backdrop: float = 0.85


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        scene: Field, background and sampling.
        train: The optimisation.
        output: What is written.
    """

    scene: SceneModel[GridField | MlpField]
    train: TrainConfig
    output: OutputConfig = OutputConfig()


PAPER = RunConfig(
    scene=SceneModel(field=MlpField()),
    train=TrainConfig(),
    output=OutputConfig(preview_every=1000, checkpoint_every=1000, distance=1.4, focal=0.9),
)
"""Every number of the paper, with the embedded prior in Imagen's place."""

TOYBOX = RunConfig(
    scene=SceneModel(
        field=GridField(),
        sampling=SamplingConfig(radius=0.62, proposals=(), intervals=48, normals="ray"),
        background=None,
    ),
    train=TrainConfig(
        steps=600,
        views=4,
        variance=Ramp(0.0, 0.0, 0),
        optimizer=AdamConfig(learning_rate=0.1),
        prompts=PromptConfig(views="octants"),
        cameras=NARROW_CAMERAS,
        lighting=dataclasses.replace(SOFT_LIGHTING, albedo_steps=150),
        sds=SdsConfig(
            guidance_weight=6.0,
            time_high=Ramp(0.98, 0.5, 600),
            weighting="image",
            clip_denoised=True,
        ),
        losses=LossConfig(
            orientation=Ramp(1e-2, 1e-1, 500), opacity=0.01, entropy=Ramp(0.02, 0.3, 450)
        ),
    ),
)
"""The default: the best result that a CPU reaches in a few minutes."""

TOYBOX_MLP = dataclasses.replace(
    TOYBOX,
    scene=dataclasses.replace(TOYBOX.scene, field=MlpField()),
    train=dataclasses.replace(
        TOYBOX.train,
        variance=Ramp(1e-2, 1e-4, 300),
        optimizer=AdamConfig(learning_rate=1e-3, warm_up=50),
    ),
)
"""`TOYBOX` with the paper's field, which wants smaller steps and a blur that shrinks."""

PAPER_GRID = dataclasses.replace(
    PAPER,
    scene=dataclasses.replace(PAPER.scene, field=GridField(radius=1.4)),
    train=dataclasses.replace(PAPER.train, optimizer=AdamConfig(learning_rate=0.05)),
)
"""`PAPER` with the fast field, for which Shampoo's blocks are too large: Adam."""

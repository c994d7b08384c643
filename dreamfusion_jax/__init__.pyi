from .distillation.train import Model, TrainConfig, init_state, train_step
from .export.formats import save_mesh
from .export.mesh import MeshConfig
from .looks.media import save_png, save_video
from .presets import PRESETS, Preset, RunConfig, preset
from .priors.loading import load_prior
from .priors.prior import Prior, encode_prompts
from .runs.progress import Reporter
from .runs.run import Run
from .runs.settings import RunSettings
from .runs.trained_scene import TrainedScene
from .scene.camera import Camera, orbit
from .scene.image import render_image
from .scene.render import SceneModel

__version__: str

__all__ = [
    "PRESETS",
    "Camera",
    "MeshConfig",
    "Model",
    "Preset",
    "Prior",
    "Reporter",
    "Run",
    "RunConfig",
    "RunSettings",
    "SceneModel",
    "TrainConfig",
    "TrainedScene",
    "encode_prompts",
    "init_state",
    "load_prior",
    "orbit",
    "preset",
    "render_image",
    "save_mesh",
    "save_png",
    "save_video",
    "train_step",
]

import pytest

from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.render import SamplingConfig


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (CameraConfig, "elevation", (90.0, -10.0)),
        (CameraConfig, "elevation", (-100.0, 0.0)),
        (CameraConfig, "area_probability", 1.5),
        (CameraConfig, "distance", (5.0, 1.0)),
        (CameraConfig, "distance", (0.0, 1.0)),
        (CameraConfig, "position_jitter", -0.1),
        (CameraConfig, "look_at_std", float("nan")),
        (CameraConfig, "up_std", -0.1),
        (CameraConfig, "focal", (0.0, 1.0)),
        (SamplingConfig, "radius", 0.0),
        (SamplingConfig, "proposals", (64, 1)),
        (SamplingConfig, "intervals", 1),
        (SamplingConfig, "dilation", -0.5),
        (SamplingConfig, "dilation_floor", float("inf")),
        (SamplingConfig, "anneal_slope", -1.0),
        (Density, "bias", float("nan")),
        (Density, "strength", -1.0),
        (Density, "width", 0.0),
        (GridField, "radius", 0.0),
        (GridField, "smoothness", -1e-3),
        (GridConfig, "resolutions", (16, 1)),
        (GridConfig, "features", 0),
        (GridConfig, "log2_table_size", 0),
        (MlpField, "width", 0),
        (MlpField, "blocks", 0),
        (MlpField, "frequencies", 0),
        (ProposalMlp, "blocks", 0),
        (EnvironmentMap, "width", 0),
    ],
)
def test_impossible_settings_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} of {kind.__name__} must be"):
        kind(**{name: value})

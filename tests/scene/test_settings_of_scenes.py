import pytest

from dreamfusion_jax.scene.camera import CameraConfig
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
    ],
)
def test_impossible_settings_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} of {kind.__name__} must be"):
        kind(**{name: value})

"""What a checkpoint's scheduler may be."""

import json

import numpy as np
import pytest
from helpers.configs import reference_config

from dreamfusion_jax.diffusion.checkpoints.pipeline import Pipeline
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.priors.pretrained import read_schedule

STABLE_DIFFUSION = reference_config("stable-diffusion-2-1", "scheduler")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def schedule(folder, values):
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))
    return read_schedule(Pipeline(identity="some/model", classes={}, root=folder))


def test_a_variance_preserving_schedule_is_read(tmp_path):
    read = schedule(tmp_path, STABLE_DIFFUSION)
    assert read.prediction_type == "v_prediction"
    # The last step of Stable Diffusion keeps this much of the picture.
    np.testing.assert_allclose(read.alphas_cumprod[-1], 0.0047, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (FLOW, "is FlowMatchEulerDiscreteScheduler; .* not flow matching"),
        (
            STABLE_DIFFUSION | {"_class_name": "FlowMatchHeunDiscreteScheduler"},
            "is FlowMatchHeunDiscreteScheduler",
        ),
        (STABLE_DIFFUSION | {"_class_name": "EDMEulerScheduler"}, "is EDMEulerScheduler"),
        (
            FLOW | {"_class_name": "MyScheduler"},
            "is MyScheduler; .* states no beta_schedule",
        ),
        ({"shift": 3.0}, "is a scheduler without a name"),
        (STABLE_DIFFUSION | {"use_flow_sigmas": True}, "use_flow_sigmas is flow matching"),
        (STABLE_DIFFUSION | {"prediction_type": "flow_prediction"}, "'flow_prediction' is not sup"),
        (STABLE_DIFFUSION | {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is not sup"),
    ],
)
def test_others_are_refused_by_name(values, match, tmp_path):
    with pytest.raises(WeightsError, match=f"^some/model.*{match}") as caught:
        schedule(tmp_path, values)
    assert "\n" not in str(caught.value)

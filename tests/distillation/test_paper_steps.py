"""The first ten steps of the preset `paper` are what they were before the code was made faster."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamfusion_jax.distillation.train import Model, init_state, train_step
from dreamfusion_jax.presets import preset
from dreamfusion_jax.priors.loading import open_prior
from dreamfusion_jax.priors.prior import encode_prompts

STORED = Path(__file__).with_name("paper_steps.json")
"""Metrics of commit f1798cd on an AMD EPYC, "a red mushroom", seed 0."""


@pytest.mark.slow
def test_no_speed_up_has_changed_the_first_steps_of_paper():
    config, prompt = preset("paper").config, "a red mushroom"
    opened = open_prior("toybox", prompt)
    text = encode_prompts(opened.prior, opened.text_params, prompt, config.train.prompts, "")
    model = Model(config.scene, opened.prior)
    prior_params = opened.read(lambda phase: None)
    state = init_state(model, config.train, 0)
    for step, stored in enumerate(json.loads(STORED.read_text())):
        state, metrics = train_step(state, prior_params, text, model=model, config=config.train)
        for name, value in stored.items():
            # A small mean of squares that are nearly zero: its rounding is relatively large.
            bound = 5e-3 if name == "orientation" else 1e-4
            np.testing.assert_allclose(
                metrics[name], value, rtol=bound, atol=1e-6, err_msg=f"{name} of step {step}"
            )

"""Whole training steps with full-size priors of random weights: minutes, and gigabytes.

Run each on its own to read its peak memory: pytest -m slow -s FILE -k floyd
"""

import functools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.configs import reference_config
from helpers.prior_steps import CONFIG, check_steps, make_model, random_text

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.checkpoints.weights import count_params, param_shapes
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig
from dreamfusion_jax.distillation.train import train_step
from dreamfusion_jax.priors.deepfloyd import DeepFloydPrior
from dreamfusion_jax.priors.stable_diffusion import StableDiffusionPrior


def random_weights(model):
    """Weights that keep the size of what passes: N(0, 1 / fan_in), unit norms, no biases."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] == "scale":
            return jnp.ones(leaf.shape, model.dtype)
        if path[-1] == "bias":
            return jnp.zeros(leaf.shape, model.dtype)
        noise = rng.standard_normal(leaf.shape, dtype=np.float32)
        return jnp.asarray(noise / np.sqrt(leaf.size / leaf.shape[-1]), model.dtype)

    flat = flatten_dict(param_shapes(model))
    return unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()})


def parts(model):
    unet_config = UNetConfig.from_json(reference_config(model, "unet"))
    # The schedule of IF-I-M is that of XL.
    scheduler = model.replace("IF-I-M", "IF-I-XL")
    return {
        "unet": UNet2DConditionModel(unet_config, compute_dtype()),
        "schedule": NoiseSchedule.from_config(reference_config(scheduler, "scheduler")),
        "text": lambda prompts: pytest.fail("the text is encoded before the loop"),
    }


def stable_diffusion():
    config = VaeConfig.from_json(reference_config("stable-diffusion-v1-5", "vae"))
    vae = AutoencoderKL(config, compute_dtype())
    prior = StableDiffusionPrior(**parts("stable-diffusion-v1-5"), vae=vae, latent_size=64)
    assert prior.unet.config.sample_size == prior.latent_size
    return prior, {"unet": random_weights(prior.unet), "vae": random_weights(vae)}


def deepfloyd():
    prior = DeepFloydPrior(**parts("IF-I-M-v1.0"), image_size=64)
    return prior, {"unet": random_weights(prior.unet)}


@pytest.mark.slow
@pytest.mark.parametrize("make", [stable_diffusion, deepfloyd])
def test_training_steps_at_full_size(make):
    prior, params = make()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == sum(count_params(getattr(prior, name)) for name in params)
    assert prior.image_size == 64 and CONFIG.views == 1
    step = functools.partial(train_step, model=make_model(prior), config=CONFIG)
    text = random_text(prior.unet.config.text_dim)
    seconds, begin = [], time.perf_counter()
    for metrics in check_steps(step, prior, params, text, steps=2):
        seconds.append(time.perf_counter() - begin)
        assert 0.1 < metrics["residual"] < 1e3
        begin = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{make.__name__} ({count:,} parameters, {prior.unet.dtype} on {jax.default_backend()}): "
        f"first step {seconds[0]:.1f} s with compilation, then {seconds[1]:.1f} s; "
        f"peak memory of the process {peak:.1f} GiB"
    )

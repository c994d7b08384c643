import functools

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.configs import reference_config
from helpers.prior_steps import CONFIG, check_steps, make_model, random_text
from helpers.torch_models import compile_fast, relative_error
from helpers.torch_pipelines import IF_SIZE, save_deepfloyd, save_stable_diffusion

from dreamfusion_jax.diffusion.checkpoints.weights import WeightsError
from dreamfusion_jax.distillation.train import train_step
from dreamfusion_jax.priors import deepfloyd, stable_diffusion
from dreamfusion_jax.priors.prior import Condition, Prior, guide
from dreamfusion_jax.priors.text import CachedText

OMEGA = 7.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("if")
    save_deepfloyd(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(folder):
    """z, steps, and states of prompt and empty prompt."""
    width = diffusers.UNet2DConditionModel.load_config(folder / "unet")["encoder_hid_dim"]
    draw = np.random.default_rng(0).standard_normal
    z, *texts = (
        draw(shape).astype(np.float32) for shape in ((2, IF_SIZE, IF_SIZE, 3), *2 * [(2, 7, width)])
    )
    return z, np.array([3, 871]), *texts


@pytest.fixture(scope="module")
def expected(folder, inputs):
    """What diffusers' UNet says to prompt and empty prompt, all six channels."""
    z, steps, *texts = inputs
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    z, steps, *texts = map(torch.from_numpy, (z, steps, *texts))
    with torch.no_grad():
        outputs = [unet(z.permute(0, 3, 1, 2), steps, text).sample for text in texts]
    return [output.permute(0, 2, 3, 1).numpy() for output in outputs]


def test_predicts_the_noise_that_diffusers_predicts(folder, inputs, expected):
    prior, params = deepfloyd.load(str(folder))
    assert isinstance(prior, Prior) and prior.bounded and prior.image_size == IF_SIZE
    assert expected[0].shape[-1] == 6
    z, steps, text, empty = inputs
    time = jnp.asarray((steps + 0.5) / 1000, jnp.float32)
    eps = compile_fast(prior.predict_eps)(params, z, time, text)
    error = relative_error(eps, expected[0][..., :3])

    @compile_fast
    def guided(params, z, time, text, empty):
        return guide(prior, params, z, time, Condition(text, empty), OMEGA)

    both = guided(params, z, time, text, empty)
    wanted = (1 + OMEGA) * expected[0][..., :3] - OMEGA * expected[1][..., :3]
    print(f"IF eps: {error:.1e}, guided {relative_error(both, wanted):.1e}")
    assert error < 1e-4 and relative_error(both, wanted) < 1e-4


def test_the_schedule_is_that_of_diffusers(folder):
    prior, _ = deepfloyd.load(str(folder))
    config = reference_config("IF-I-XL-v1.0", "scheduler")
    assert config["beta_schedule"] == "squaredcos_cap_v2"
    truth = diffusers.DDPMScheduler.from_config(config).alphas_cumprod
    np.testing.assert_allclose(prior.schedule.alphas_cumprod, truth, atol=1e-6)


def test_bfloat16(folder, inputs, expected):
    prior, params = deepfloyd.load(str(folder), dtype=jnp.bfloat16)
    z, steps, text, _ = inputs
    time = jnp.asarray((steps + 0.5) / 1000, jnp.float32)
    eps = compile_fast(prior.predict_eps)(params, z, time, text)
    error = relative_error(eps, expected[0][..., :3])
    print(f"IF eps in bfloat16: {error:.1e}")
    assert eps.dtype == jnp.float32 and error < 3e-2


def test_pixels_are_scaled_and_scaled_back(folder):
    prior, params = deepfloyd.load(str(folder))
    image = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 4, 4, 3)), jnp.float32)
    z = prior.encode_image(params, image)
    np.testing.assert_allclose(z, 2 * np.asarray(image) - 1, atol=1e-6)
    np.testing.assert_allclose(prior.decode_image(params, z), image, atol=1e-6)


def test_known_prompts_need_no_text_encoder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prior, params = deepfloyd.load(str(folder))
    assert isinstance(prior.text, CachedText)
    with pytest.raises(WeightsError, match="text_encoder"):
        prior.encode_text(params, ["a cat"])
    known = np.random.default_rng(2).standard_normal((1, 77, 40)).astype(np.float32)
    CachedText(prior.text.pipeline, lambda pipeline, prompts: jnp.asarray(known))(["a cat"])
    np.testing.assert_array_equal(prior.encode_text(params, ["a cat"]), known)


def test_a_training_step(folder):
    prior, params = deepfloyd.load(str(folder))
    step = compile_fast(functools.partial(train_step, model=make_model(prior), config=CONFIG))
    text = random_text(prior.unet.config.text_dim, tokens=7)
    assert list(check_steps(step, prior, params, text))


def test_other_checkpoints_are_refused(folder, tmp_path):
    with pytest.raises(WeightsError, match="vae"):
        stable_diffusion.load(str(folder))
    save_stable_diffusion(tmp_path, "1.5")
    with pytest.raises(WeightsError, match="T5EncoderModel"):
        deepfloyd.load(str(tmp_path))

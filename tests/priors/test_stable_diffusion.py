import dataclasses
import functools
import json
import shutil
from typing import ClassVar

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.prior_steps import CONFIG, check_steps, make_model, random_text
from helpers.torch_models import compile_fast, relative_error
from helpers.torch_pipelines import LATENT_SIZE, save_stable_diffusion
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.distillation.train import train_step
from dreamfusion_jax.priors.prior import Condition, GaussianPrior, Prior
from dreamfusion_jax.priors.sampling import sample
from dreamfusion_jax.priors.stable_diffusion import load

PROMPTS = ["a red mushroom", "an orange ice cream, front left view", ""]
TIMESTEPS = np.array([7, 431, 998])
VAE_SIZE = 4 * LATENT_SIZE


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {v: tmp_path_factory.mktemp(f"sd-{v}") for v in ("1.5", "2.1")}
    for version, folder in folders.items():
        save_stable_diffusion(folder, version)
    return folders


@pytest.fixture(scope="module")
def loaded(folders):
    return load(str(folders["1.5"]))


@pytest.fixture(scope="module")
def vae(folders):
    return diffusers.AutoencoderKL.from_pretrained(folders["1.5"] / "vae").eval()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def channels_first(x):
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


def run_torch(folder, z):
    """Embeddings, output of the UNet and the noise in z, the last by diffusers' scheduler."""
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = text(ids).last_hidden_state
        output = unet(channels_first(z), torch.from_numpy(TIMESTEPS), states).sample
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    scheduler = diffusers.DDIMScheduler.from_config(config)
    scheduler.set_timesteps(1000)
    z, out = channels_first(z).double(), output.double()
    clean = [scheduler.step(out[i], t, z[i])[1] for i, t in enumerate(TIMESTEPS)]
    kept = scheduler.alphas_cumprod[TIMESTEPS].double().reshape(-1, 1, 1, 1)
    eps = (z - kept.sqrt() * torch.stack(clean)) / (1 - kept).sqrt()
    velocity = scheduler.get_velocity(torch.stack(clean), eps, torch.from_numpy(TIMESTEPS))
    is_v = config.get("prediction_type") == "v_prediction"
    torch.testing.assert_close(velocity if is_v else eps, out, rtol=1e-4, atol=1e-4)
    return states.numpy(), channels_last(eps)


@pytest.mark.parametrize("version", ["1.5", "2.1"])
def test_predicts_the_noise_that_diffusers_predicts(version, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prior, params = load(str(folders[version]))
    assert isinstance(prior, Prior) and not prior.bounded and prior.image_size == 64
    z = draw(3, LATENT_SIZE, LATENT_SIZE, 4)
    states, expected = run_torch(folders[version], z)
    embedding = prior.encode_text(params, PROMPTS)
    assert relative_error(embedding, states) < 1e-4
    time = jnp.asarray((TIMESTEPS + 0.5) / 1000, jnp.float32)
    eps = compile_fast(prior.predict_eps)(params, z, time, embedding)
    print(f"SD {version} eps: {relative_error(eps, expected):.1e}")
    for one in range(3):
        assert relative_error(eps[one], expected[one]) < 1e-4


def test_in_float16_the_autoencoder_stays_in_float32(folders):
    prior, params = load(str(folders["1.5"]), dtype=jnp.float16)
    assert prior.vae.dtype == jnp.float32 and prior.unet.dtype == jnp.float16
    assert {x.dtype for x in jax.tree.leaves(params["vae"])} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(params["unet"])} == {jnp.dtype(jnp.float16)}


def test_bfloat16(folders):
    prior, params = load(str(folders["1.5"]), dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    z = draw(3, LATENT_SIZE, LATENT_SIZE, 4)
    states, expected = run_torch(folders["1.5"], z)
    time = jnp.asarray((TIMESTEPS + 0.5) / 1000, jnp.float32)
    eps = compile_fast(prior.predict_eps)(params, z, time, jnp.asarray(states))
    print(f"SD eps in bfloat16: {relative_error(eps, expected):.1e}")
    assert eps.dtype == jnp.float32 and relative_error(eps, expected) < 3e-2


@pytest.mark.parametrize("size", [64, 512])
def test_encodes_as_diffusers_and_so_does_the_derivative(size, loaded, vae):
    prior, params = loaded
    prior = dataclasses.replace(prior, image_size=size)
    image = np.random.default_rng(1).uniform(size=(1, size, size, 3)).astype(np.float32)
    residual = draw(1, LATENT_SIZE, LATENT_SIZE, 4)

    @compile_fast
    def encode(params, image, residual):
        z, pull_back = jax.vjp(functools.partial(prior.encode_image, params), image)
        return z, pull_back(residual)[0]

    pixels = channels_first(image).requires_grad_()
    # Only where the image shrinks, all of its pixels have to be averaged.
    resized = torch.nn.functional.interpolate(
        pixels, (VAE_SIZE, VAE_SIZE), mode="bilinear", antialias=size > VAE_SIZE
    )
    latent = vae.encode(2 * resized - 1).latent_dist.mean * vae.config.scaling_factor
    (gradient,) = torch.autograd.grad(latent, pixels, channels_first(residual))
    z, pulled = encode(params, image, residual)
    errors = (
        relative_error(z, channels_last(latent)),
        relative_error(pulled, channels_last(gradient)),
    )
    print(f"VAE encoder on {size} pixels: z {errors[0]:.1e}, gradient {errors[1]:.1e}")
    assert z.dtype == pulled.dtype == jnp.float32 and max(errors) < 1e-4


def test_decodes_as_diffusers_one_by_one(loaded, vae):
    prior, params = loaded
    z = draw(2, LATENT_SIZE, LATENT_SIZE, 4)
    with torch.no_grad():
        expected = vae.decode(channels_first(z) / vae.config.scaling_factor).sample / 2 + 0.5
    image = compile_fast(prior.decode_image)(params, z)
    assert image.shape == (2, VAE_SIZE, VAE_SIZE, 3)
    assert relative_error(image, channels_last(expected)) < 1e-4


def test_sizes_of_renderings(loaded):
    prior, params = loaded
    assert prior.unet.dtype == compute_dtype() == jnp.float32
    for size in (1, 63, 513):
        with pytest.raises(ValueError, match=f"64 to 512 pixels, not {size}"):
            dataclasses.replace(prior, image_size=size)
    for size in (64, 100, 512):
        image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        z = jax.eval_shape(dataclasses.replace(prior, image_size=size).encode_image, params, image)
        assert z.shape == (2, LATENT_SIZE, LATENT_SIZE, 4)


def test_latents_stay_as_they_are(folders):
    prior, params = load(str(folders["1.5"]), latent=True)
    assert prior.image_size == LATENT_SIZE and prior.latent
    z = jnp.asarray(draw(1, LATENT_SIZE, LATENT_SIZE, 4))
    np.testing.assert_array_equal(prior.encode_image(params, z), z)
    with pytest.raises(ValueError, match="latents have 4 channels, not 3"):
        prior.encode_image(params, z[..., :3])


@pytest.mark.slow
@pytest.mark.parametrize("latent", [False, True])
def test_a_training_step(latent, folders):
    prior, params = load(str(folders["1.5"]), latent=latent)
    model = make_model(prior, latent)
    step = compile_fast(functools.partial(train_step, model=model, config=CONFIG))
    text = random_text(prior.unet.config.text_dim, tokens=7)
    assert list(check_steps(step, prior, params, text, latent=latent))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 9}, r"maps 9 channels to 4; a text-to-image model here maps 4"),
        ({"out_channels": 3}, r"maps 4 channels to 3"),
        ({"sample_size": None}, r"does not state its sample_size"),
        ({"class_embed_type": "timestep"}, r"class_embed_type = 'timestep' is not supported"),
    ],
)
def test_unets_that_do_not_serve(change, message, folders, tmp_path):
    folder = shutil.copytree(folders["1.5"], tmp_path / "sd")
    file = folder / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load(str(folder))


@dataclasses.dataclass(frozen=True, eq=False)
class FarPrior(GaussianPrior):
    """Its image is far outside of [-1, 1]."""

    bounded: ClassVar[bool] = False

    def decode_image(self, params, z):
        return 0.1 * z + 0.5


def test_samples_of_unbounded_latents_are_not_clipped():
    schedule = NoiseSchedule.from_config({"beta_schedule": "scaled_linear", "beta_end": 0.012})
    prior = FarPrior(schedule, image_size=4)
    condition = Condition(jnp.full(1, 3.0), jnp.full(1, 3.0))
    image = sample(jax.random.key(0), prior, None, condition, steps=3, guidance_weight=0.0)
    np.testing.assert_allclose(image, 0.8, atol=1e-3)

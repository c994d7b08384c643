import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.configs import SMALL_VAE, reference_config
from helpers.torch_models import compile_fast, randomize, relative_error
from safetensors.torch import load_file, save_file

from dreamfusion_jax.diffusion.checkpoints.weights import count_params, load_params
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig


def make_pair(config, folder):
    torch_model = diffusers.AutoencoderKL.from_config(config).eval()
    randomize(torch_model)
    torch_model.save_pretrained(folder)
    model = AutoencoderKL(VaeConfig.from_json(json.loads((folder / "config.json").read_text())))
    return torch_model, model, load_params(folder, model)


def run_torch(model, image, latent):
    with torch.no_grad():
        moments = model.encode(torch.from_numpy(image).permute(0, 3, 1, 2)).latent_dist
        decoded = model.decode(torch.from_numpy(latent).permute(0, 3, 1, 2)).sample
    return [x.permute(0, 2, 3, 1) for x in (moments.mean, moments.logvar, decoded)]


def run_ours(model, params, image, latent):
    @compile_fast
    def run(params, image, latent):
        encoded = model.apply({"params": params}, image, method="encode")
        return *encoded, model.apply({"params": params}, latent, method="decode")

    return run(params, image, latent)


def make_inputs(size, factor):
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (1, size, size, 3))
    latent = rng.normal(size=(1, size // factor, size // factor, 4))
    return image.astype(np.float32), latent.astype(np.float32)


def test_equals_diffusers(tmp_path):
    torch_model, model, params = make_pair(SMALL_VAE, tmp_path)
    inputs = make_inputs(32, 4)
    theirs = run_torch(torch_model, *inputs)
    half = AutoencoderKL(model.config, jnp.bfloat16)
    for ours, truth in zip(run_ours(model, params, *inputs), theirs, strict=True):
        assert relative_error(ours, truth) < 1e-4
    for ours, truth in zip(run_ours(half, params, *inputs), theirs, strict=True):
        assert relative_error(ours, truth) < 3e-2


def test_derivative_of_encoder_equals_diffusers(tmp_path):
    torch_model, model, params = make_pair(SMALL_VAE, tmp_path)
    image, latent = make_inputs(32, 4)

    @compile_fast
    def pull_back(image):
        def encode(image):
            return model.apply({"params": params}, image, method="encode")[0]

        return jax.vjp(encode, image)[1](latent)[0]

    torch_image = torch.from_numpy(image).permute(0, 3, 1, 2).requires_grad_()
    mean = torch_model.encode(torch_image).latent_dist.mean.permute(0, 2, 3, 1)
    (gradient,) = torch.autograd.grad(mean, torch_image, torch.from_numpy(latent))
    assert relative_error(pull_back(image), gradient.permute(0, 2, 3, 1)) < 1e-4


def test_old_attention_names(tmp_path):
    _, model, params = make_pair(SMALL_VAE, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        for new_name, old_name in old.items():
            name = name.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        return name

    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, file)
    jax.tree.map(np.testing.assert_array_equal, params, load_params(file, model))


def test_configs():
    for name in ("stable-diffusion-v1-5", "stable-diffusion-2-1-base", "stable-diffusion-2-1"):
        config = VaeConfig.from_json(reference_config(name, "vae"))
        assert config.scaling_factor == 0.18215
        assert count_params(AutoencoderKL(config)) == 83_653_863
    assert VaeConfig.from_json(SMALL_VAE | {"scaling_factor": 0.5}).scaling_factor == 0.5
    with pytest.raises(ValueError, match=r"shift_factor = 0\.1 is not supported"):
        VaeConfig.from_json(SMALL_VAE | {"shift_factor": 0.1})
    with pytest.raises(ValueError, match=r"down_block_types = .*AttnDownEncoderBlock2D"):
        VaeConfig.from_json(SMALL_VAE | {"down_block_types": 3 * ["AttnDownEncoderBlock2D"]})


@pytest.mark.slow
def test_full_size_equals_diffusers(tmp_path):
    config = reference_config("stable-diffusion-v1-5", "vae")
    torch_model, model, params = make_pair(config, tmp_path)
    inputs = make_inputs(256, 8)
    theirs = run_torch(torch_model, *inputs)
    for dtype, bound in [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)]:
        ours = run_ours(AutoencoderKL(model.config, dtype), params, *inputs)
        errors = [relative_error(*pair) for pair in zip(ours, theirs, strict=True)]
        print(f"VAE at full size, {dtype.__name__} (mean, log variance, image): {errors}")
        assert max(errors) < bound

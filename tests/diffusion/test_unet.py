import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.configs import TINY_UNET, UNETS, reference_config
from helpers.torch_models import compile_fast, randomize, relative_error

from dreamfusion_jax.diffusion.checkpoints.weights import count_params, load_params, save_params
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig


def make_pair(name, folder):
    """The PyTorch model, saved by itself, and ours, loaded from that."""
    torch_model = diffusers.UNet2DConditionModel.from_config(UNETS[name]).eval()
    randomize(torch_model)
    torch_model.save_pretrained(folder)
    config = UNetConfig.from_json(json.loads((folder / "config.json").read_text()))
    model = UNet2DConditionModel(config)
    return torch_model, model, load_params(folder, model)


def make_inputs(config, size=16, tokens=7):
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(2, size, size, config.in_channels))
    times = np.array([3.25, 871.0])
    text = rng.normal(size=(2, tokens, config.text_dim))
    return [x.astype(np.float32) for x in (sample, times, text)]


def run_torch(model, sample, times, text):
    sample, times, text = map(torch.from_numpy, (sample, times, text))
    with torch.no_grad():
        return model(sample.permute(0, 3, 1, 2), times, text).sample.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", UNETS)
def test_equals_diffusers(name, tmp_path):
    torch_model, model, params = make_pair(name, tmp_path)
    inputs = make_inputs(model.config)
    ours = compile_fast(model.apply)({"params": params}, *inputs)
    theirs = run_torch(torch_model, *inputs)
    assert relative_error(ours, theirs) < 1e-4
    if name in ("sd-1.5", "sd-2.1", "if"):
        half = UNet2DConditionModel(model.config, jnp.bfloat16)
        ours = compile_fast(half.apply)({"params": params}, *inputs)
        assert ours.dtype == jnp.bfloat16
        assert relative_error(ours, theirs) < 3e-2


@pytest.mark.parametrize(
    ("name", "without_effect"),
    [
        ("sd-1.5", []),
        # A bias of all keys adds one number to all logits of a query: softmax ignores it.
        ("if", ["add_embedding.pool.k_proj.bias"]),
    ],
)
def test_every_parameter_matters(name, without_effect, tmp_path):
    """A mutation of any one tensor moves the output by more than the parity bound."""
    _, model, params = make_pair(name, tmp_path)
    inputs = make_inputs(model.config, size=4)
    run = compile_fast(model.apply)
    truth = run({"params": params}, *inputs)
    rng = np.random.default_rng(0)
    unmoved = []
    for path, value in flatten_dict(jax.tree.map(np.asarray, params)).items():
        noise = 0.3 * rng.normal(size=value.shape) * np.sqrt(np.mean(value**2))
        mutant = flatten_dict(params) | {path: value + noise.astype(np.float32)}
        error = relative_error(run({"params": unflatten_dict(mutant)}, *inputs), truth)
        if error < 1e-3:
            unmoved.append((".".join(path), error))
    assert [name for name, _ in unmoved] == without_effect, unmoved


def test_diffusers_reads_what_we_save(tmp_path):
    torch_model, _, params = make_pair("toybox", tmp_path)
    save_params(params, tmp_path / "diffusion_pytorch_model.safetensors", dtype=jnp.float32)
    again, info = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for ours, theirs in zip(again.parameters(), torch_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "mish"}, "act_fn = 'mish' is not supported; supported: 'silu'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"up_block_types": ["AttnUpBlock2D"] * 4}, "up_block_types = 'AttnUpBlock2D'"),
        ({"attention_head_dim": [4, 4]}, "attention_head_dim = \\[4, 4\\] is not supported"),
        ({"transformer_layers_per_block": [[1, 1]] * 4}, "transformer_layers_per_block"),
        ({"cross_attention_dim": [32] * 4}, "cross_attention_dim = .* one integer"),
        ({"warp_drive": 3}, "unknown option 'warp_drive' = 3"),
        ({"encoder_hid_dim_type": "text_proj"}, "needs encoder_hid_dim"),
    ],
)
def test_unsupported_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_json(TINY_UNET | change)


def test_sizes_that_do_not_divide_are_refused():
    model = UNet2DConditionModel(UNetConfig.from_json(TINY_UNET))
    shapes = [(1, 16, 12, 12), (1,), (1, 7, 32)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with pytest.raises(ValueError, match="multiples of 8, not 16 x 12"):
        jax.eval_shape(model.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stable-diffusion-v1-5", 859_520_964),
        ("stable-diffusion-2-1-base", 865_910_724),
        ("stable-diffusion-2-1", 865_910_724),
        ("IF-I-XL-v1.0", 4_304_695_110),
    ],
)
def test_full_size_parameter_counts(name, count):
    model = UNet2DConditionModel(UNetConfig.from_json(reference_config(name, "unet")))
    assert count_params(model) == count


@pytest.mark.parametrize(("name", "millions"), [("IF-I-M-v1.0", 372), ("IF-I-L-v1.0", 935)])
def test_rough_parameter_counts_of_reconstructed_configs(name, millions):
    model = UNet2DConditionModel(UNetConfig.from_json(reference_config(name, "unet")))
    assert round(count_params(model) / 1e6) == millions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "stable-diffusion-2-1", "IF-I-M-v1.0"])
def test_full_size_equals_diffusers(name, tmp_path, monkeypatch):
    monkeypatch.setitem(UNETS, name, reference_config(name, "unet"))
    torch_model, model, params = make_pair(name, tmp_path)
    inputs = make_inputs(model.config, size=model.config.sample_size, tokens=77)
    theirs = run_torch(torch_model, *inputs)
    del torch_model
    ours = jax.jit(model.apply)({"params": params}, *inputs)
    error = relative_error(ours, theirs)
    half = UNet2DConditionModel(model.config, jnp.bfloat16)
    half_error = relative_error(jax.jit(half.apply)({"params": params}, *inputs), theirs)
    print(f"{name} UNet at full size: float32 {error:.1e}, bfloat16 {half_error:.1e}")
    assert error < 1e-4
    assert half_error < 3e-2

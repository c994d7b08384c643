import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.configs import reference_config
from helpers.torch_models import compile_fast, randomize, relative_error
from safetensors.torch import load_file, save_file

from dreamfusion_jax.diffusion.checkpoints.weights import count_params, load_params, save_params
from dreamfusion_jax.diffusion.clip import (
    ClipConfig,
    ClipModel,
    ClipTextConfig,
    ClipTextModel,
)
from dreamfusion_jax.diffusion.layers import Embedding

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
}
TEXT_CONFIGS = {
    # quick_gelu; eos_token_id 2 means that the largest id ends the text.
    "sd-1.5": reference_config("stable-diffusion-v1-5", "text_encoder") | SMALL,
    # gelu; the true eos id, and padding with an id above it.
    "sd-2.1": reference_config("stable-diffusion-2-1", "text_encoder")
    | SMALL
    | {"eos_token_id": 55, "pad_token_id": 59},
}
IDS = np.array([[58, 3, 9, 55, 59, 59, 59, 59], [58, 7, 55, 55, 1, 55, 0, 0]], np.int32)


def make_text_pair(name, folder, dtype=jnp.float32):
    torch_model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT_CONFIGS[name]))
    randomize(torch_model.eval())
    torch_model.save_pretrained(folder)
    config = ClipTextConfig.from_json(json.loads((folder / "config.json").read_text()))
    model = ClipTextModel(config, dtype)
    return torch_model, model, load_params(folder, model, dtype=dtype)


@pytest.mark.parametrize("name", TEXT_CONFIGS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_text_equals_transformers(name, dtype, tmp_path):
    torch_model, model, params = make_text_pair(name, tmp_path, dtype)
    with torch.no_grad():
        theirs = torch_model(torch.from_numpy(IDS).long())
    hidden, pooled = compile_fast(model.apply)({"params": params}, IDS)
    bound = 1e-4 if dtype == jnp.float32 else 3e-2
    assert relative_error(hidden, theirs.last_hidden_state) < bound
    assert relative_error(pooled, theirs.pooler_output) < bound


@pytest.mark.parametrize("vocabulary", [60, 2000])
def test_gradients_of_embeddings_in_half_precision_are_no_sums_in_half_precision(vocabulary):
    """A token that is there 4,096 times; one after the other would end at 256.

    That is so for the small vocabularies that are trained; large ones are looked up.
    """
    table = Embedding(vocabulary, 8, jnp.bfloat16)
    ids = jnp.full((64, 64), 7).at[0, 0].set(3)
    params = table.init(jax.random.key(0), ids)

    def total(params):
        rows = table.apply(params, ids).sum(dtype=jnp.float32)
        return rows + 64 * table.apply(params, 5, method="first").sum(dtype=jnp.float32)

    rows = table.apply(params, ids)
    np.testing.assert_array_equal(rows, params["params"]["embedding"].astype(rows.dtype)[ids])
    if vocabulary < 100:
        gradient = jax.grad(total)(params)["params"]["embedding"]
        expected = np.zeros(vocabulary)
        expected[:5] += 64
        expected[[7, 3]] += [4095, 1]
        np.testing.assert_allclose(gradient, np.tile(expected[:, None], 8), rtol=2**-8)


def test_text_checkpoints_old_and_new(tmp_path):
    _, model, params = make_text_pair("sd-1.5", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors")
    again = load_params(tmp_path / "old", model)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_transformers_reads_what_we_save(tmp_path):
    torch_model, _, params = make_text_pair("sd-2.1", tmp_path)
    save_params(params, tmp_path / "model.safetensors", dtype=jnp.float32)
    again, info = transformers.CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for ours, theirs in zip(again.parameters(), torch_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


VISION_CONFIGS = {
    "B/32": {"image_size": 64, "patch_size": 32},
    "B/16": {"image_size": 48, "patch_size": 16},
    "L/14": {"image_size": 42, "patch_size": 14, "hidden_act": "gelu"},
}


@pytest.mark.parametrize("name", VISION_CONFIGS)
def test_text_and_vision_equal_transformers(name, tmp_path):
    vision = {k: v for k, v in SMALL.items() if "size" in k or "num" in k} | VISION_CONFIGS[name]
    text = TEXT_CONFIGS["sd-2.1"] | {"hidden_size": 24}
    torch_config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=20
    )
    torch_model = transformers.CLIPModel(torch_config).eval()
    randomize(torch_model)
    torch_model.save_pretrained(tmp_path)
    config = ClipConfig.from_json(json.loads((tmp_path / "config.json").read_text()))
    model = ClipModel(config)
    params = load_params(tmp_path, model)

    size = config.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(IDS).long(), torch.from_numpy(pixels).permute(0, 3, 1, 2)
        theirs = [
            torch_model.get_text_features(inputs[0]).pooler_output,
            torch_model.get_image_features(inputs[1]).pooler_output,
        ]
    ours = compile_fast(model.apply)({"params": params}, IDS, pixels)
    assert relative_error(ours[0], theirs[0]) < 1e-4
    assert relative_error(ours[1], theirs[1]) < 1e-4
    half = ClipModel(config, jnp.bfloat16)
    ours = compile_fast(half.apply)({"params": params}, IDS, pixels)
    assert relative_error(ours[0], theirs[0]) < 3e-2
    assert relative_error(ours[1], theirs[1]) < 3e-2


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stable-diffusion-v1-5", 123_060_480),
        ("stable-diffusion-2-1-base", 340_387_840),
        ("stable-diffusion-2-1", 340_387_840),
    ],
)
def test_full_size_parameter_counts(name, count):
    config = ClipTextConfig.from_json(reference_config(name, "text_encoder"))
    assert count_params(ClipTextModel(config)) == count


def test_wrong_inputs_and_configs_are_named():
    config = ClipTextConfig.from_json(TEXT_CONFIGS["sd-1.5"])
    ids = jax.ShapeDtypeStruct((1, 13), jnp.int32)
    with pytest.raises(ValueError, match="13 tokens; the model takes 12"):
        jax.eval_shape(ClipTextModel(config).init, jax.random.key(0), ids)
    with pytest.raises(ValueError, match="hidden_act = 'relu' is not supported"):
        ClipTextConfig.from_json(TEXT_CONFIGS["sd-1.5"] | {"hidden_act": "relu"})
    with pytest.raises(ValueError, match="model_type = 't5' is not supported"):
        ClipTextConfig.from_json({"model_type": "t5"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "stable-diffusion-2-1"])
def test_full_size_equals_transformers(name, tmp_path, monkeypatch):
    monkeypatch.setitem(TEXT_CONFIGS, name, reference_config(name, "text_encoder"))
    torch_model, model, params = make_text_pair(name, tmp_path)
    ids = np.random.default_rng(0).integers(0, 49_408, (2, 77)).astype(np.int32)
    with torch.no_grad():
        theirs = torch_model(torch.from_numpy(ids).long()).last_hidden_state
    for dtype, bound in [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)]:
        hidden, _ = jax.jit(ClipTextModel(model.config, dtype).apply)({"params": params}, ids)
        error = relative_error(hidden, theirs)
        print(f"{name} CLIP text at full size, {dtype.__name__}: {error:.1e}")
        assert error < bound

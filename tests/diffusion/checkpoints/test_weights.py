import json
import tracemalloc
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfusion_jax.diffusion.attention import attention_implementation
from dreamfusion_jax.diffusion.checkpoints.weights import WeightsError, load_params, save_params


class Model(nn.Module):
    """A convolution, a matrix, a norm and an embedding, with paths like a checkpoint's."""

    @nn.compact
    def __call__(self, x, ids):
        x = nn.Conv(5, (3, 2), name="blocks.0.conv")(x)
        x = nn.Dense(7, name="blocks.0.proj")(x)
        return nn.LayerNorm(name="norm")(x), nn.Embed(4, 7, name="embed")(ids)

    def example_inputs(self):
        x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
        return x, jax.ShapeDtypeStruct((1,), jnp.int32)

    @staticmethod
    def checkpoint_name(name):
        return None if name == "unused" else name


TENSORS = {
    "blocks.0.conv.weight": torch.arange(90.0).reshape(5, 3, 3, 2),
    "blocks.0.conv.bias": torch.arange(5.0),
    "blocks.0.proj.weight": torch.arange(35.0).reshape(7, 5),
    "blocks.0.proj.bias": torch.arange(7.0),
    "norm.weight": torch.ones(7),
    "norm.bias": torch.zeros(7),
    "embed.weight": torch.arange(28.0).reshape(4, 7),
    "unused": torch.arange(3),
}
STEM = "diffusion_pytorch_model"


def check(params, dtype=jnp.float32):
    conv = params["blocks.0.conv"]["kernel"]
    assert conv.dtype == dtype
    np.testing.assert_array_equal(conv[2, 1, 0, 4], TENSORS["blocks.0.conv.weight"][4, 0, 2, 1])
    np.testing.assert_array_equal(
        params["blocks.0.proj"]["kernel"], TENSORS["blocks.0.proj.weight"].T
    )
    np.testing.assert_array_equal(params["embed"]["embedding"], TENSORS["embed.weight"])
    assert set(params["norm"]) == {"scale", "bias"}


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_and_layout(stored, dtype, tmp_path):
    tensors = {k: v.to(stored) if v.is_floating_point() else v for k, v in TENSORS.items()}
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    check(load_params(tmp_path, Model(), dtype=dtype), dtype)


def test_where_weights_are_found(tmp_path):
    half = {k: v.half() for k, v in TENSORS.items()}
    save_file(half, tmp_path / f"{STEM}.fp16.safetensors")
    check(load_params(tmp_path, Model()))
    check(load_params(tmp_path / f"{STEM}.fp16.safetensors", Model()))

    shards = tmp_path / "sharded"
    shards.mkdir()
    weight_map = {}
    for i, names in enumerate((list(TENSORS)[:3], list(TENSORS)[3:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: TENSORS[name] for name in names}, shards / file)
        weight_map |= dict.fromkeys(names, file)
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    check(load_params(shards, Model()))
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="do not exist: model-00002-of-00002"):
        load_params(shards, Model())


def test_full_precision_is_preferred_to_a_variant(tmp_path):
    save_file(TENSORS, tmp_path / f"{STEM}.safetensors")
    save_file({"garbage": torch.ones(1)}, tmp_path / f"{STEM}.fp16.safetensors")
    check(load_params(tmp_path, Model()))


class ManyLayers(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(16):
            x = nn.Dense(256, use_bias=False, name=f"layers.{i}")(x)
        return x

    def example_inputs(self):
        return (jax.ShapeDtypeStruct((1, 256), jnp.float32),)

    @staticmethod
    def checkpoint_name(name):
        return name


def test_no_second_copy_is_held(tmp_path):
    tensors = {f"layers.{i}.weight": torch.ones(256, 256) for i in range(16)}
    save_file(tensors, tmp_path / "model.safetensors")
    load_params(tmp_path, ManyLayers())
    total = 16 * 256 * 256 * 4
    tracemalloc.start()
    load_params(tmp_path, ManyLayers())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * total


def test_every_misfit_is_named_in_one_error(tmp_path):
    tensors = {k: v for k, v in TENSORS.items() if k != "norm.bias"}
    tensors |= {"blocks.9.proj.bias": torch.ones(2), "embed.weight": torch.ones(5, 7)}
    tensors["blocks.0.proj.weight"] = TENSORS["blocks.0.proj.weight"].T.contiguous()
    tensors["norm.weight"] = torch.ones(7, dtype=torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_params(tmp_path, Model())
    message = str(caught.value)
    assert "1 missing (norm.bias)" in message
    assert "1 unexpected (blocks.9.proj.bias)" in message
    assert "2 wrongly shaped (blocks.0.proj.weight is [5, 7], not [7, 5]" in message
    assert "embed.weight is [5, 7], not [4, 7])" in message
    assert "1 of a type that is not read (norm.weight is F8_E4M3)" in message


def test_files_that_cannot_be_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="does not exist"):
        load_params(tmp_path / "nowhere", Model())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin may hold code and is not read"):
        load_params(tmp_path, Model())
    with pytest.raises(WeightsError, match="other formats are not read"):
        load_params(tmp_path / "pytorch_model.bin", Model())
    save_file(TENSORS, file)
    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model.safetensors is truncated"):
            load_params(tmp_path, Model())
    file.write_bytes(b"\xff" * 200)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_params(tmp_path, Model())


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(jnp.float32, torch.float32), (jnp.float16, torch.float16), (jnp.bfloat16, torch.bfloat16)],
)
def test_safetensors_reads_what_we_save(dtype, stored, tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    params = load_params(tmp_path, Model())
    save_params(params, tmp_path / "ours.safetensors", dtype=dtype)
    tensors = load_file(tmp_path / "ours.safetensors")
    assert set(tensors) == set(TENSORS) - {"unused"}
    for name, tensor in tensors.items():
        assert tensor.dtype == stored
        assert torch.equal(tensor, TENSORS[name].to(stored))
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".part*"))


def test_fused_attention_is_chosen_only_where_it_runs():
    ampere = SimpleNamespace(device_kind="NVIDIA A100", compute_capability="8.0")
    turing = SimpleNamespace(device_kind="Tesla T4", compute_capability="7.5")
    host = SimpleNamespace(device_kind="cpu")
    assert attention_implementation(jnp.bfloat16, 64, True, ampere) == "cudnn"
    assert attention_implementation(jnp.float32, 64, True, ampere) == "xla"
    assert attention_implementation(jnp.bfloat16, 64, False, ampere) == "xla"
    assert attention_implementation(jnp.bfloat16, 36, True, ampere) == "xla"
    assert attention_implementation(jnp.bfloat16, 512, True, ampere) == "xla"
    assert attention_implementation(jnp.bfloat16, 64, True, turing) == "xla"
    assert attention_implementation(jnp.bfloat16, 64, True, host) == "xla"


def test_the_environment_chooses_attention_where_there_is_a_choice(monkeypatch):
    gpu = SimpleNamespace(device_kind="NVIDIA H100", compute_capability="9.0")
    monkeypatch.setenv("DREAMFUSION_JAX_ATTENTION", "xla")
    assert attention_implementation(jnp.bfloat16, 64, True, gpu) == "xla"
    monkeypatch.setenv("DREAMFUSION_JAX_ATTENTION", "cudnn")
    assert attention_implementation(jnp.bfloat16, 64, True, gpu) == "cudnn"
    assert attention_implementation(jnp.float32, 64, True, gpu) == "xla"
    monkeypatch.setenv("DREAMFUSION_JAX_ATTENTION", "flash")
    with pytest.raises(ValueError, match="DREAMFUSION_JAX_ATTENTION must be xla or cudnn"):
        attention_implementation(jnp.float32, 64, True, gpu)

"""One-file checkpoints against diffusers' own converters of them, on small random models."""

import dataclasses
import json

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from helpers.configs import reference_config
from helpers.torch_models import randomize
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.diffusion.checkpoints import known_kinds, ldm_names
from dreamfusion_jax.diffusion.checkpoints.single_file import open_single_file
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import count_params, known_tensors
from dreamfusion_jax.diffusion.clip import ClipTextConfig, ClipTextModel
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig
from dreamfusion_jax.priors import stable_diffusion
from dreamfusion_jax.toybox.tokenizer import build_tokenizer

UNET = {
    "block_out_channels": [32, 48, 48],
    "norm_num_groups": 16,
    "down_block_types": [*2 * ["CrossAttnDownBlock2D"], "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *2 * ["CrossAttnUpBlock2D"]],
}
VAE = {
    "block_out_channels": [16, 24, 24],
    "norm_num_groups": 8,
    "down_block_types": 3 * ["DownEncoderBlock2D"],
    "up_block_types": 3 * ["UpDecoderBlock2D"],
}


def text(width):
    return {
        "hidden_size": width,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": len(build_tokenizer()),
        "max_position_embeddings": 18,
    }


def small(kind, width, heads, pad_token):
    return dataclasses.replace(
        kind,
        unet={**kind.unet, **UNET, "cross_attention_dim": width, "attention_head_dim": heads},
        vae={**kind.vae, **VAE},
        text_encoder={**kind.text_encoder, **text(width)},
        pad_token=pad_token,
    )


KINDS = {
    "1": small(known_kinds.STABLE_DIFFUSION_1, 24, 8, "<|endoftext|>"),
    "2": small(known_kinds.STABLE_DIFFUSION_2, 40, [2, 3, 3], "q"),
}


def torch_parts(kind):
    """The three networks in PyTorch, with random weights."""
    parts = {
        "unet": diffusers.UNet2DConditionModel.from_config(dict(kind.unet)),
        "vae": diffusers.AutoencoderKL.from_config(dict(kind.vae)),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**kind.text_encoder)),
    }
    for seed, part in enumerate(parts.values()):
        randomize(part, seed)
    return parts


def text_state(model):
    state = {n.removeprefix("text_model."): x for n, x in model.state_dict().items()}
    return {f"text_model.{n}": x for n, x in state.items() if not n.endswith("position_ids")}


def as_ldm(version, parts):
    """The tensors of a one-file checkpoint, by the names under test."""
    state = {}
    for name, tensor in parts["unet"].state_dict().items():
        attention = {1, 2}
        state[ldm_names.UNET + ldm_names.unet_name(name, 2, attention)] = tensor
    for name, tensor in parts["vae"].state_dict().items():
        new = ldm_names.VAE + ldm_names.vae_name(name, 3)
        is_projection = ".attn_1." in new and tensor.ndim == 2
        state[new] = tensor[:, :, None, None] if is_projection else tensor
    encoder = text_state(parts["text_encoder"])
    if version == "1":
        return state | {ldm_names.CLIP + name: x for name, x in encoder.items()}
    # The second half of OpenCLIP's own names is written out by hand.
    at = ldm_names.OPEN_CLIP
    state[at + "positional_embedding"] = encoder["text_model.embeddings.position_embedding.weight"]
    state[at + "token_embedding.weight"] = encoder["text_model.embeddings.token_embedding.weight"]
    state[at + "text_projection"] = torch.randn(40, 40)
    state[at + "logit_scale"] = torch.ones(())
    for leaf in ("weight", "bias"):
        state[f"{at}ln_final.{leaf}"] = encoder[f"text_model.final_layer_norm.{leaf}"]
        for i in range(2):
            old, new = f"text_model.encoder.layers.{i}", f"{at}transformer.resblocks.{i}"
            fused = [encoder[f"{old}.self_attn.{x}_proj.{leaf}"] for x in "qkv"]
            state[f"{new}.attn.in_proj_{leaf}"] = torch.cat(fused)
            state[f"{new}.attn.out_proj.{leaf}"] = encoder[f"{old}.self_attn.out_proj.{leaf}"]
            for ours, theirs in {
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
            }.items():
                state[f"{new}.{ours}.{leaf}"] = encoder[f"{old}.{theirs}.{leaf}"]
    return state


@pytest.fixture(scope="module", params=["1", "2"])
def case(request, tmp_path_factory):
    version = request.param
    folder = tmp_path_factory.mktemp(f"sd{version}")
    parts = torch_parts(KINDS[version])
    state = {name: x.contiguous().clone() for name, x in as_ldm(version, parts).items()}
    # What such files hold besides, and what no network here reads.
    state["model_ema.decay"] = torch.ones(())
    state["alphas_cumprod"] = torch.ones(1000)
    if version == "2":
        last = "cond_stage_model.model.transformer.resblocks.2.ln_1.weight"
        state[last] = torch.ones(40)
    save_file(state, folder / "model.safetensors")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    return version, folder, parts, state


def test_diffusers_converters_understand_the_names(case):
    """A wrong name would leave a tensor of diffusers' model out, or put another in its place."""
    version, _, parts, state = case
    kind = KINDS[version]
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(state), dict(kind.unet))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(state), dict(kind.vae))
    for converted, part in ((unet, "unet"), (vae, "vae")):
        truth = parts[part].state_dict()
        assert converted.keys() == truth.keys()
        for name, tensor in truth.items():
            assert torch.equal(converted[name].reshape(tensor.shape), tensor), name
    if version == "1":
        encoder = single_file_utils.convert_ldm_clip_checkpoint(dict(state))
    else:
        known = {n: x for n, x in state.items() if "resblocks.2." not in n}
        encoder = single_file_utils.convert_open_clip_checkpoint(parts["text_encoder"], known)
    encoder = {f"text_model.{n.removeprefix('text_model.')}": x for n, x in encoder.items()}
    for name, tensor in text_state(parts["text_encoder"]).items():
        assert torch.equal(encoder[name], tensor), name


def test_reads_the_same_tensors(case):
    version, folder, parts, _ = case
    file = open_single_file(
        folder / "model.safetensors", kinds=tuple(KINDS.values()), prediction_type="epsilon"
    )
    assert file.kind is KINDS[version]
    stored = load_file(folder / "model.safetensors")
    for part, prefix in (("unet", "model.diffusion_model."), ("vae", "first_stage_model.")):
        size = sum(x.nbytes for name, x in stored.items() if name.startswith(prefix))
        assert file.volume(part).size == size > 0
    text = sum(x.nbytes for name, x in stored.items() if name.startswith("cond_stage_model."))
    assert 0.9 * text < file.volume("text_encoder").size <= text
    models = {
        "unet": UNet2DConditionModel(UNetConfig.from_json(file.config("unet"))),
        "vae": AutoencoderKL(VaeConfig.from_json(file.config("vae"))),
        "text_encoder": ClipTextModel(ClipTextConfig.from_json(file.config("text_encoder"))),
    }
    for part, model in models.items():
        read = known_tensors("file", file.tensors(part), model)
        truth = parts[part].state_dict()
        if part == "text_encoder":
            truth = text_state(parts[part])
        assert read.keys() == truth.keys()
        for name, tensor in truth.items():
            np.testing.assert_array_equal(read[name][:], tensor.numpy(), err_msg=name)


@pytest.mark.slow
def test_a_prior_of_a_file(case, tmp_path, monkeypatch):
    """The same embeddings and noise as of the same networks in diffusers' layout."""
    version, folder, parts, _ = case
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kind = KINDS[version]
    file = open_single_file(
        folder / "model.safetensors",
        kinds=tuple(KINDS.values()),
        prediction_type="v_prediction" if version == "2" else None,
        tokenizer=str(folder),
    )
    prior, params = stable_diffusion.load(file)
    layout = tmp_path / "layout"
    for name, part in parts.items():
        part.save_pretrained(layout / name)
    unet = json.loads((layout / "unet" / "config.json").read_text())
    unet["sample_size"] = 96 if version == "2" else 64
    (layout / "unet" / "config.json").write_text(json.dumps(unet))
    tokenizer = build_tokenizer()
    tokenizer.pad_token = kind.pad_token
    tokenizer.save_pretrained(layout / "tokenizer")
    scheduler = reference_scheduler(version)
    (layout / "scheduler").mkdir()
    (layout / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    (layout / "model_index.json").write_text(json.dumps(index))
    other, other_params = stable_diffusion.load(str(layout))
    assert prior.unet == other.unet and prior.vae == other.vae
    assert prior.latent_size == other.latent_size == (96 if version == "2" else 64)
    assert prior.schedule.prediction_type == other.schedule.prediction_type
    np.testing.assert_array_equal(prior.schedule.alphas_cumprod, other.schedule.alphas_cumprod)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    prompts = ["a red car", ""]
    np.testing.assert_array_equal(
        prior.encode_text(params, prompts), other.encode_text(other_params, prompts)
    )


def reference_scheduler(version):
    name = {"1": "stable-diffusion-v1-5", "2": "stable-diffusion-2-1"}[version]
    return reference_config(name, "scheduler")


def test_the_known_kinds_are_those_of_diffusers():
    for kind, name, prediction in (
        (known_kinds.STABLE_DIFFUSION_1, "stable-diffusion-v1-5", "epsilon"),
        (known_kinds.STABLE_DIFFUSION_2, "stable-diffusion-2-1-base", "epsilon"),
        (known_kinds.STABLE_DIFFUSION_2, "stable-diffusion-2-1", "v_prediction"),
    ):
        size = {"sample_size": kind.sample_sizes[prediction]}
        ours = UNetConfig.from_json({**kind.unet, **size})
        theirs = UNetConfig.from_json(reference_config(name, "unet"))
        assert dataclasses.replace(theirs, upcast_attention=False) == ours
        assert VaeConfig.from_json(kind.vae) == VaeConfig.from_json(reference_config(name, "vae"))
        encoder = ClipTextConfig.from_json(reference_config(name, "text_encoder"))
        assert ClipTextConfig.from_json(kind.text_encoder) == encoder
    assert count_params(UNet2DConditionModel(ours)) == 865_910_724


def refused(file, match, **arguments):
    with pytest.raises(WeightsError, match=match) as caught:
        open_single_file(file, kinds=tuple(KINDS.values()), **arguments)
    assert "\n" not in str(caught.value)


def test_what_is_predicted_is_asked_where_it_is_open(case, tmp_path):
    version, folder, _, state = case
    path = folder / "model.safetensors"
    if version == "1":
        file = open_single_file(path, kinds=tuple(KINDS.values()))
        assert file.prediction_type == "epsilon"
        return
    refused(path, "is a Stable Diffusion 2.x, of which some predict epsilon .* say which")
    told = tmp_path / "told.safetensors"
    save_file(state, told, metadata={"modelspec.prediction_type": "v"})
    assert open_single_file(told, kinds=tuple(KINDS.values())).prediction_type == "v_prediction"
    refused(told, "says that it predicts v_prediction, not epsilon", prediction_type="epsilon")
    save_file(state | {"v_pred": torch.ones(1)}, told)
    assert open_single_file(told, kinds=tuple(KINDS.values())).config("unet")["sample_size"] == 96


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("conditioner.embedders.0.transformer.x", "is Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "is Stable Diffusion 3"),
        ("double_blocks.0.x", "is FLUX"),
        ("control_model.input_blocks.0.0.weight", "is a ControlNet"),
        ("lora_unet_x.lora_down.weight", "is a LoRA, to be merged"),
        ("lora_unet_x.hada_w1_a", "is a LoHa, which is not read"),
        ("something", "has no model.diffusion_model.input_blocks.1.1"),
    ],
)
def test_other_files_are_refused_by_name(name, what, tmp_path):
    save_file({name: torch.ones(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", what)


def test_files_that_do_not_fit(case, tmp_path):
    version, folder, _, state = case
    first = "model.diffusion_model.input_blocks.0.0.weight"
    file = tmp_path / "x.safetensors"
    save_file(state | {first: torch.ones(32, 9, 3, 3)}, file)
    refused(file, "is an inpainting model: its UNet takes 9 channels")
    context = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file(state | {context: torch.ones(32, 99)}, file)
    refused(file, r"its text is 99 wide; known: Stable Diffusion 1.x \(24\), .* \(40\)")
    save_file(state | {"model.diffusion_model.extra.weight": torch.ones(1)}, file)
    opened = open_single_file(file, kinds=(KINDS[version],), prediction_type="epsilon")
    with pytest.raises(WeightsError, match=r"the first is model.diffusion_model.extra.weight"):
        opened.tensors("unet")
    file.write_bytes(b"no")
    refused(file, "is truncated or not a safetensors file")
    refused(folder / "model.ckpt", "is not a .safetensors file")
    with pytest.raises(WeightsError, match="has its own scheduler, tokenizer"):
        stable_diffusion.open_checkpoint(str(folder), prediction_type="epsilon")

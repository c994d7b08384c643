"""LoRAs merged at load against diffusers' and peft's own, on small random ones."""

import json

import diffusers
import numpy as np
import pytest
import torch
from helpers.configs import reference_config
from helpers.torch_models import randomize
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.diffusion.checkpoints.lora import Lora, Merged
from dreamfusion_jax.diffusion.checkpoints.pipeline import Pipeline
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError

SCALE, RANK, ALPHA = 0.7, 3, 5.0
UNET = reference_config("stable-diffusion-v1-5", "unet") | {
    "block_out_channels": [32, 48],
    "norm_num_groups": 16,
    "cross_attention_dim": 24,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 18,
}
# Matrices, convolutions of 1 x 1 and of 3 x 3.
TARGETS = ("to_q", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv_shortcut")
TEXT_TARGETS = ("q_proj", "out_proj", "fc1")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    unet = diffusers.UNet2DConditionModel.from_config(UNET)
    text = CLIPTextModel(CLIPTextConfig(**TEXT))
    for seed, (name, model) in enumerate({"unet": unet, "text_encoder": text}.items()):
        randomize(model, seed)
        model.save_pretrained(folder / name)
    return Pipeline(identity="base", classes={}, root=folder)


def modules(tensors, targets):
    """Weights of the modules that end so, by the path of the module."""
    found = {n.removesuffix(".weight"): x for n, x in tensors.items() if n.endswith(".weight")}
    return {n: x for n, x in found.items() if n.endswith(tuple(f".{t}" for t in targets))}


def factors(base, part, targets):
    """Random A, B and alpha of each module; alpha is not the same for all."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for i, (name, weight) in enumerate(modules(base.tensors(part), targets).items()):
        out, width, *kernel = weight.shape
        down = torch.randn(RANK, width, *kernel, generator=generator)
        up = torch.randn(out, RANK, *(1 for _ in kernel), generator=generator)
        found[name] = (down, up, ALPHA + i % 3)
    assert len(found) >= 4
    return found


def expected(base, part, found, scale=SCALE):
    """Every weight, with the product added by definition, in float64."""
    truth = {n: x[:].astype(np.float64) for n, x in base.tensors(part).items()}
    for name, (down, up, alpha) in found.items():
        subscripts = "oryx,riuv->oiuv" if down.ndim == 4 else "or,ri->oi"
        product = np.einsum(subscripts, up.double().numpy(), down.double().numpy())
        truth[f"{name}.weight"] += scale * alpha / RANK * product
    return truth


def check(base, part, file, truth, scale=SCALE):
    merged = Merged(base, (Lora(file, scale),)).tensors(part)
    assert merged.keys() == truth.keys()
    for name, value in truth.items():
        np.testing.assert_allclose(merged[name][:], value, atol=2e-5, rtol=1e-5, err_msg=name)


def kohya(found, prefix):
    tensors = {}
    for name, (down, up, alpha) in found.items():
        at = prefix + name.replace(".", "_")
        tensors |= {f"{at}.lora_down.weight": down, f"{at}.lora_up.weight": up}
        tensors[f"{at}.alpha"] = torch.tensor(alpha)
    return tensors


def with_prefix(found):
    return {f"text_model.{n.removeprefix('text_model.')}": x for n, x in found.items()}


def test_kohya_names(base, tmp_path):
    unet, text = factors(base, "unet", TARGETS), factors(base, "text_encoder", TEXT_TARGETS)
    shapes = {tuple(x.shape[2:]) for x, _, _ in unet.values()}
    assert shapes == {(), (1, 1), (3, 3)}
    file = tmp_path / "kohya.safetensors"
    save_file(kohya(unet, "lora_unet_") | kohya(with_prefix(text), "lora_te_"), file)
    check(base, "unet", file, expected(base, "unet", unet))
    check(base, "text_encoder", file, expected(base, "text_encoder", text))


@pytest.mark.parametrize(
    ("down", "up"),
    [("lora_A", "lora_B"), ("lora.down", "lora.up"), ("lora_A.default_0", "lora_B.default_0")],
)
def test_diffusers_names(down, up, base, tmp_path):
    file = tmp_path / "diffusers.safetensors"
    tensors = {}
    unet, text = factors(base, "unet", TARGETS), factors(base, "text_encoder", TEXT_TARGETS)
    named = {f"unet.{n}": x for n, x in unet.items()}
    named |= {f"text_encoder.{n}": x for n, x in with_prefix(text).items()}
    for name, (a, b, alpha) in named.items():
        tensors |= {f"{name}.{down}.weight": a, f"{name}.{up}.weight": b}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file)
    check(base, "unet", file, expected(base, "unet", unet))
    check(base, "text_encoder", file, expected(base, "text_encoder", text))


def test_older_diffusers_names_without_alpha(base, tmp_path):
    file, tensors = tmp_path / "old.safetensors", {}
    found = factors(base, "unet", ("to_q", "to_out.0"))
    for name, (a, b, _) in found.items():
        path, _, matrix = name.removesuffix(".0").rpartition(".")
        tensors[f"{path}.processor.{matrix}_lora.down.weight"] = a
        tensors[f"{path}.processor.{matrix}_lora.up.weight"] = b
    save_file(tensors, file)
    found = {name: (a, b, RANK) for name, (a, b, _) in found.items()}
    check(base, "unet", file, expected(base, "unet", found))


def peft_unet(base):
    """A UNet with an adapter of peft whose factors are random."""
    import peft

    unet = diffusers.UNet2DConditionModel.from_pretrained(base.root / "unet")
    targets = ["to_q", "to_out.0", "ff.net.0.proj", "proj_in", "conv1"]
    unet.add_adapter(
        peft.LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=targets,
            alpha_pattern={"to_q": 2.0},
            init_lora_weights=False,
        )
    )
    return unet


def fused(unet, scale):
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    return {n: x.detach().double().numpy() for n, x in unet.state_dict().items()}


def test_what_diffusers_saves_and_fuses(base, tmp_path):
    """A file that diffusers wrote, with alphas in its metadata, against its own fused weights."""
    pytest.importorskip("peft")
    unet = peft_unet(base)
    unet.save_lora_adapter(tmp_path, safe_serialization=True)
    (file,) = tmp_path.glob("*.safetensors")
    check(base, "unet", file, fused(unet, SCALE))


def test_diffusers_reads_the_same_from_kohya_names(base, tmp_path):
    """diffusers converts the file, loads it through peft and fuses it."""
    pytest.importorskip("peft")
    found = factors(base, "unet", ("to_q", "to_out.0", "ff.net.0.proj"))
    # diffusers drops an alpha that is not that of the others (peft warns of it).
    found = {name: (down, up, ALPHA) for name, (down, up, _) in found.items()}
    tensors = kohya(found, "lora_unet_")
    save_file(tensors, tmp_path / "kohya.safetensors")
    unet = diffusers.UNet2DConditionModel.from_pretrained(base.root / "unet")
    mixin = diffusers.loaders.StableDiffusionLoraLoaderMixin
    state, alphas = mixin.lora_state_dict(tmp_path / "kohya.safetensors")
    mixin.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    check(base, "unet", tmp_path / "kohya.safetensors", fused(unet, SCALE))


def test_two_are_merged_one_after_the_other(base, tmp_path):
    found = factors(base, "unet", ("to_q", "to_v"))
    file = tmp_path / "kohya.safetensors"
    save_file(kohya(found, "lora_unet_"), file)
    merged = Merged(base, (Lora(file, 0.5), Lora(file, -0.25))).tensors("unet")
    for name, value in expected(base, "unet", found, scale=0.25).items():
        np.testing.assert_allclose(merged[name][:], value, atol=2e-5, rtol=1e-5)


def test_the_identity_knows_what_changes_the_text(base, tmp_path):
    unet, text = tmp_path / "unet.safetensors", tmp_path / "text.safetensors"
    save_file(kohya(factors(base, "unet", ("to_q",)), "lora_unet_"), unet)
    found = factors(base, "text_encoder", TEXT_TARGETS)
    save_file(kohya(with_prefix(found), "lora_te_"), text)
    assert Merged(base, (Lora(unet),)).identity == "base"
    names = {Merged(base, (Lora(text, scale),)).identity for scale in (1.0, 0.5)}
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(text.read_bytes())
    names.add(Merged(base, (Lora(unet), Lora(copy, 0.5))).identity)
    assert len(names) == 2 and all(name.startswith("base+") for name in names)
    other = {n: (a + 1, b, c) for n, (a, b, c) in with_prefix(found).items()}
    save_file(kohya(other, "lora_te_"), text)
    assert Merged(base, (Lora(text),)).identity not in names


def test_the_notation_of_a_file_and_its_scale(tmp_path):
    assert Lora.parse(f"{tmp_path}/x.safetensors:0.8") == Lora(tmp_path / "x.safetensors", 0.8)
    assert Lora.parse(f"{tmp_path}/a:b.safetensors") == Lora(tmp_path / "a:b.safetensors")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("lora_unet_x.hada_w1_a", "is a LoHa .lora_unet_x.hada_w1_a., which is not read"),
        ("lora_unet_x.lokr_w2", "is a LoKr"),
        ("lora_unet_x.dora_scale", "is a DoRA"),
        ("unet.x.lora_magnitude_vector", "is a DoRA"),
        ("lora_te2_x.lora_down.weight", "for Stable Diffusion XL"),
        ("transformer.transformer_blocks.0.x.lora_A.weight", "Stable Diffusion 3 or FLUX"),
        ("lora_unet_x.diff", "holds lora_unet_x.diff, which is no part of a LoRA"),
        ("lora_unet_x.lora_down.weight", "unet x has only down"),
    ],
)
def test_relatives_are_refused_by_name(name, match, base, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, 2)}, file)
    with pytest.raises(WeightsError, match=match) as caught:
        Merged(base, (Lora(file),)).tensors("unet")
    assert "\n" not in str(caught.value)


def test_a_lora_for_another_model_is_refused(base, tmp_path):
    file = tmp_path / "x.safetensors"
    found = factors(base, "unet", ("to_q",))
    first = next(iter(found))
    down, up, alpha = found[first]
    wide = torch.cat([down, down], 1)
    save_file(kohya({first: (wide, up, alpha)}, "lora_unet_"), file)
    with pytest.raises(WeightsError, match=r"is for another model: \S+to_q maps \[3, "):
        Merged(base, (Lora(file),)).tensors("unet")
    save_file(kohya({"nowhere.to_q": found[first]}, "lora_unet_"), file)
    with pytest.raises(WeightsError, match="is for another model: there is no nowhere_to_q"):
        Merged(base, (Lora(file),)).tensors("unet")
    metadata = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    save_file(kohya(found, "lora_unet_"), file, metadata=metadata)
    with pytest.raises(WeightsError, match="says use_dora, which is not read"):
        Merged(base, (Lora(file),)).tensors("unet")

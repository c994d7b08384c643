"""MVDream's UNet against diffusers' of one view, with its two additions written in PyTorch here."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.configs import UNETS
from helpers.torch_models import compile_fast, randomize, relative_error

from dreamfusion_jax.diffusion.checkpoints.tensors import Tensor, WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import param_shapes, read_params
from dreamfusion_jax.diffusion.multi_view import VIEWS, multi_view_config, multi_view_tensors
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel

# What the published checkpoint's config.json says.
FULL = {
    "_class_name": "MultiViewUNetModel",
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "use_checkpoint": False,
    "camera_dim": 16,
}
SMALL = FULL | {
    "image_size": 16,
    "model_channels": 32,
    "attention_resolutions": [1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 16,
    "context_dim": 24,
}


class AllViews:
    """Self-attention of diffusers, of the pixels of four pictures in a row."""

    def __init__(self):
        self.plain = diffusers.models.attention_processor.AttnProcessor()

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, **others):
        assert encoder_hidden_states is None
        batch, pixels, width = hidden_states.shape
        together = hidden_states.reshape(batch // VIEWS, VIEWS * pixels, width)
        return self.plain(attention, together, **others).reshape(batch, pixels, width)


@pytest.fixture(scope="module")
def original():
    """Its embedding of the camera is what diffusers calls a projected class embedding."""
    model = diffusers.UNet2DConditionModel.from_config(
        UNETS["sd-2.1"]
        | {"block_out_channels": [32, 64], "norm_num_groups": 32, "cross_attention_dim": 24}
        | {"layers_per_block": 1, "transformer_layers_per_block": 1, "attention_head_dim": [2, 4]}
        | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    ).eval()
    randomize(model)
    for name, module in model.named_modules():
        if name.endswith("attn1"):
            module.set_processor(AllViews())
    return model


def stored(original):
    """The tensors by the names of latent diffusion's code, written out by hand."""
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0",
        "class_embedding.linear_2": "camera_embed.2",
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    parts = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    tensors = {}
    for name, value in original.state_dict().items():
        old = next(old for old in names if name.startswith(f"{old}."))
        rest = name.removeprefix(f"{old}.")
        if ".resnets." in name:
            part, _, leaf = rest.partition(".")
            rest = f"{parts[part]}.{leaf}"
        array = value.numpy()
        tensors[f"{names[old]}.{rest}"] = Tensor(array.shape, "F32", lambda i, x=array: x[i])
    return tensors


def load(original):
    config = multi_view_config(SMALL)
    model = UNet2DConditionModel(config)
    tensors = multi_view_tensors("there", stored(original), config)
    return model, read_params("there", tensors, model)


def inputs(groups=2, size=8):
    rng = np.random.default_rng(0)
    views = VIEWS * groups
    z, text = rng.normal(size=(views, size, size, 4)), rng.normal(size=(views, 5, 24))
    times = np.repeat(rng.uniform(0, 999, groups), VIEWS)
    camera = rng.normal(size=(views, 16))
    return [x.astype(np.float32) for x in (z, times, text, camera)]


def test_equals_the_original_on_the_same_weights(original):
    model, params = load(original)
    z, times, text, camera = inputs()
    ours = compile_fast(model.apply)({"params": params}, z, times, text, camera)
    with torch.no_grad():
        theirs = original(
            torch.from_numpy(z).permute(0, 3, 1, 2),
            torch.from_numpy(times),
            torch.from_numpy(text),
            class_labels=torch.from_numpy(camera),
        ).sample.permute(0, 2, 3, 1)
    assert relative_error(ours, theirs) < 1e-4


def test_a_view_is_seen_by_its_own_group_alone(original):
    model, params = load(original)
    z, times, text, camera = inputs()
    run = compile_fast(model.apply)
    before = np.asarray(run({"params": params}, z, times, text, camera))
    z[1] += 1.0
    after = np.asarray(run({"params": params}, z, times, text, camera))
    moved = np.abs(after - before).max(axis=(1, 2, 3))
    assert (moved[:VIEWS] > 1e-3).all() and (moved[VIEWS:] == 0.0).all()


def test_the_published_model_has_stable_diffusions_size_and_an_embedding_of_the_camera():
    def count(config):
        shapes = param_shapes(UNet2DConditionModel(config))
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))

    config = multi_view_config(FULL)
    assert config.attention_head_dim == (5, 10, 20, 20)
    # 865,910,724 is the UNet of Stable Diffusion 2.1.
    assert count(config) == 865_910_724 + (16 + 1) * 1280 + (1280 + 1) * 1280


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ip_dim": 16}, "ip_dim"),
        ({"camera_dim": None}, "camera_dim is missing"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm"),
        ({"magic": 3}, "magic"),
        ({"num_head_channels": 48}, "num_head_channels"),
        ({"num_res_blocks": [1, 2]}, "num_res_blocks"),
    ],
)
def test_options_that_are_not_supported_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        multi_view_config(SMALL | change)


def test_tensors_of_another_model_are_named(original):
    tensors = stored(original)
    tensors["image_embed.latents"] = tensors["out.2.bias"]
    with pytest.raises(WeightsError, match=r"not MVDream's, the first is image_embed\.latents"):
        multi_view_tensors("there", tensors, multi_view_config(SMALL))


def test_cameras_and_groups_are_asked_for(original):
    model, params = load(original)
    z, times, text, camera = map(jnp.asarray, inputs(1))
    with pytest.raises(ValueError, match="cameras go with"):
        model.apply({"params": params}, z, times, text)
    with pytest.raises(ValueError, match="groups of 4, not 3"):
        model.apply({"params": params}, z[:3], times[:3], text[:3], camera[:3])

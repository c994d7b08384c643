"""MVDream's UNet in PyTorch: diffusers' of one view, with its two additions written out here."""

import json

import diffusers
from safetensors.torch import save_file

from helpers.configs import UNETS
from helpers.torch_models import randomize
from helpers.torch_pipelines import save_stable_diffusion

VIEWS, WIDTH = 4, UNETS["sd-2.1"]["cross_attention_dim"]
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
    "context_dim": WIDTH,
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


def original_unet():
    """Its embedding of the camera is what diffusers calls a projected class embedding."""
    model = diffusers.UNet2DConditionModel.from_config(
        UNETS["sd-2.1"]
        | {"block_out_channels": [32, 64], "norm_num_groups": 32, "cross_attention_dim": WIDTH}
        | {"layers_per_block": 1, "transformer_layers_per_block": 1, "attention_head_dim": [2, 4]}
        | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    ).eval()
    randomize(model)
    for name, module in model.named_modules():
        if name.endswith("attn1"):
            module.set_processor(AllViews())
    return model


def as_latent_diffusion(model):
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
    for name, value in model.state_dict().items():
        old = next(old for old in names if name.startswith(f"{old}."))
        rest = name.removeprefix(f"{old}.")
        if ".resnets." in name:
            part, _, leaf = rest.partition(".")
            rest = f"{parts[part]}.{leaf}"
        tensors[f"{names[old]}.{rest}"] = value.contiguous()
    return tensors


def save_mvdream(folder):
    """A miniature checkpoint in diffusers' layout, its UNet with the names of the original code."""
    save_stable_diffusion(folder, "2.1")
    for file in (folder / "unet").iterdir():
        file.unlink()
    (folder / "unet/config.json").write_text(json.dumps(SMALL))
    tensors = as_latent_diffusion(original_unet())
    save_file(tensors, folder / "unet/diffusion_pytorch_model.safetensors")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))

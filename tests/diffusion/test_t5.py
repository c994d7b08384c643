import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.configs import reference_config
from helpers.torch_models import compile_fast, randomize, relative_error
from safetensors.torch import load_file
from transformers.models.t5.modeling_t5 import T5Attention

from dreamfusion_jax.diffusion.checkpoints.weights import count_params, load_params
from dreamfusion_jax.diffusion.t5 import T5Config, T5EncoderModel, relative_position_bucket

CONFIG = reference_config("IF-I-XL-v1.0", "text_encoder")
SMALL = {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 3,
    "num_heads": 4,
    "vocab_size": 50,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 24,
}


def test_equals_transformers_with_mask(tmp_path):
    config = CONFIG | SMALL
    torch_model = transformers.T5EncoderModel(transformers.T5Config(**config)).eval()
    randomize(torch_model)
    with torch.no_grad():
        for block in torch_model.encoder.block:
            # T5 does not scale its logits; its initialization scales the queries.
            block.layer[0].SelfAttention.q.weight /= config["d_kv"] ** 0.5
    torch_model.save_pretrained(tmp_path)
    assert "encoder.embed_tokens.weight" not in load_file(tmp_path / "model.safetensors")
    config = T5Config.from_json(json.loads((tmp_path / "config.json").read_text()))
    model = T5EncoderModel(config)
    params = load_params(tmp_path, model)

    # Longer than the largest distance with a bucket of its own.
    ids = np.random.default_rng(0).integers(0, 50, (2, 40)).astype(np.int32)
    mask = np.arange(40) < np.array([[40], [11]])
    with torch.no_grad():
        theirs = torch_model(
            torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
        ).last_hidden_state
    ours = compile_fast(model.apply)({"params": params}, ids, mask)
    assert relative_error(ours, theirs) < 1e-4
    unmasked = compile_fast(model.apply)({"params": params}, ids, np.ones_like(mask))
    assert relative_error(unmasked[1], theirs[1]) > 1e-2
    half = T5EncoderModel(config, jnp.bfloat16)
    assert relative_error(compile_fast(half.apply)({"params": params}, ids, mask), theirs) < 3e-2


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 24)])
def test_distances_fall_in_the_same_buckets(buckets, max_distance):
    offsets = np.arange(-600, 601)
    theirs = T5Attention._relative_position_bucket(
        torch.from_numpy(offsets), num_buckets=buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(relative_position_bucket(offsets, buckets, max_distance), theirs)


def test_config():
    assert count_params(T5EncoderModel(T5Config.from_json(CONFIG))) == 4_762_310_656
    with pytest.raises(ValueError, match="feed_forward_proj = 'relu' is not supported"):
        T5Config.from_json(CONFIG | {"feed_forward_proj": "relu"})
    with pytest.raises(ValueError, match="d_ff missing"):
        T5Config.from_json({k: v for k, v in CONFIG.items() if k != "d_ff"})

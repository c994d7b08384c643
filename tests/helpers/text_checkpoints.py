"""Small checkpoints of text encoders, saved by PyTorch, and what they make of prompts."""

import json
import shutil

import torch
import transformers

from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from helpers.configs import reference_config
from helpers.torch_models import randomize

LENGTH = 18
CLIP_WORDS = {
    token: index for token, index in build_tokenizer().get_vocab().items() if token.endswith("</w>")
}
T5_WORDS = ["a", "red", "blue", "car", "duck"]
T5_VOCAB = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
T5_VOCAB += [(f"▁{word}", -2.0 - i) for i, word in enumerate(T5_WORDS)]
SMALL_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": len(build_tokenizer()),
    "max_position_embeddings": LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SMALL_T5 = {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 100,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 24,
}
PROMPTS = ["a red car", "", "a duck", "a blue car a duck"]


def write(folder, files):
    for name, values in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(values if isinstance(values, str) else json.dumps(values))


def save_encoder(folder, kind, seed=0):
    """A text encoder with random weights, saved by PyTorch."""
    if kind == "t5":
        config = transformers.T5Config(
            **reference_config("IF-I-XL-v1.0", "text_encoder") | SMALL_T5
        )
        model = transformers.T5EncoderModel(config).eval()
    else:
        name = {"sd-1.5": "stable-diffusion-v1-5", "sd-2.1": "stable-diffusion-2-1"}[kind]
        config = reference_config(name, "text_encoder") | SMALL_CLIP
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).eval()
    randomize(model, seed)
    if kind == "t5":
        for block in model.encoder.block:
            # T5 does not scale its logits; its initialization scales the queries.
            block.layer[0].SelfAttention.q.weight.data /= SMALL_T5["d_kv"] ** 0.5
    model.save_pretrained(folder / "text_encoder")
    return model


def save_old_tokenizer(folder):
    """Without tokenizer.json, and with the padding told by special_tokens_map.json, as SD 2.1's."""
    build_tokenizer().save_pretrained(folder / "new")
    model = json.loads((folder / "new" / "tokenizer.json").read_text())["model"]
    shutil.rmtree(folder / "new")
    write(
        folder / "tokenizer",
        {
            "vocab.json": model["vocab"],
            "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]),
            "tokenizer_config.json": {"model_max_length": LENGTH, "pad_token": "<|endoftext|>"},
            "special_tokens_map.json": {
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "q",
            },
        },
    )


def make(folder, kind):
    """A checkpoint's folder, without UNet; the encoder in PyTorch, and the tokens it must get."""
    encoder, tokenizer = "CLIPTextModel", "CLIPTokenizer"
    pad = 1
    if kind == "t5":
        encoder, tokenizer, pad = "T5EncoderModel", "T5Tokenizer", 0
        transformers.T5Tokenizer(vocab=T5_VOCAB, extra_ids=0).save_pretrained(folder / "tokenizer")
    elif kind == "sd-1.5":
        build_tokenizer().save_pretrained(folder / "tokenizer")
    else:
        save_old_tokenizer(folder)
        pad = build_tokenizer().get_vocab()["q"]
    index = {
        "_class_name": "Pipeline",
        "text_encoder": ["transformers", encoder],
        "tokenizer": ["transformers", tokenizer],
    }
    write(folder, {"model_index.json": index})
    return save_encoder(folder, kind), pad


def reference(model, pad, prompts, masked=True):
    """The embeddings, in PyTorch, of ids that are looked up word by word."""
    rows = []
    for prompt in prompts:
        words = prompt.lower().split()
        if isinstance(model, transformers.T5EncoderModel):
            length, ids = 77, [4 + T5_WORDS.index(word) for word in words]
        else:
            length, ids = LENGTH, [0, *(CLIP_WORDS[f"{word}</w>"] for word in words)]
        ids = [*ids[: length - 1], 1]
        mask = [1] * len(ids) + [0] * (length - len(ids))
        rows.append((ids + [pad] * (length - len(ids)), mask))
    ids, mask = (torch.tensor(x) for x in zip(*rows, strict=True))
    use_mask = masked and isinstance(model, transformers.T5EncoderModel)
    with torch.no_grad():
        return model(ids, attention_mask=mask if use_mask else None).last_hidden_state.numpy()

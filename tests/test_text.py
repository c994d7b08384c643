import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from torch_models import randomize, reference_config, relative_error

from dreamfusion_jax.diffusion.weights import WeightsError
from dreamfusion_jax.priors.pipeline import open_pipeline
from dreamfusion_jax.priors.text import CachedText, default_cache, encode_clip, encode_t5
from dreamfusion_jax.toybox.tokenizer import build_tokenizer

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


def texts(folder, encode=encode_clip):
    return CachedText(open_pipeline(str(folder), {}), encode, folder.parent / "cache" / "deeper")


def one_line(text, prompts, match):
    with pytest.raises(WeightsError, match=match) as caught:
        text(prompts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sd-1.5", "sd-2.1"])
def test_clip_equals_transformers(kind, tmp_path):
    model, pad = make(tmp_path / "model", kind)
    # The words of a prompt that is too long are cut, the mark of its end is not.
    long = " ".join(["a red car"] * 9)
    with pytest.warns(
        UserWarning, match=f"more than {LENGTH} tokens; not read: 'red car a red car"
    ):
        ours = texts(tmp_path / "model")([*PROMPTS, long])
    theirs = reference(model, pad, [*PROMPTS, long])
    assert ours.dtype == jnp.float32 and ours.shape == (5, LENGTH, 32)
    error = relative_error(ours, theirs)
    print(f"{kind}: {error:.1e}")
    assert error < 1e-5
    assert relative_error(reference(model, 0, PROMPTS), theirs[:-1]) > 1e-2


def test_t5_equals_transformers(tmp_path):
    model, pad = make(tmp_path / "model", "t5")
    long = " ".join(["a red car"] * 30)
    prompts = [*PROMPTS, long]
    with pytest.warns(UserWarning, match="more than 77 tokens"):
        ours = texts(tmp_path / "model", encode_t5)(["  A Red Car ", *prompts[1:]])
    theirs = reference(model, pad, prompts)
    assert ours.dtype == jnp.float32 and ours.shape == (5, 77, 32)
    error = relative_error(ours, theirs)
    unmasked = relative_error(reference(model, pad, prompts, masked=False), theirs)
    print(f"t5 in bfloat16: {error:.1e}; without mask {unmasked:.1e}")
    assert error < 3e-2
    assert unmasked > 10 * error
    stored = [load_file(file)["embedding"] for file in (tmp_path / "cache/deeper").iterdir()]
    assert [embedding.dtype for embedding in stored] == [jnp.bfloat16] * 5


def test_second_time_needs_no_encoder(tmp_path):
    folder = tmp_path / "model"
    make(folder, "sd-1.5")
    first = texts(folder)(PROMPTS)
    shutil.rmtree(folder / "tokenizer")
    np.testing.assert_array_equal(texts(folder)(PROMPTS), first)
    shutil.rmtree(folder / "text_encoder")
    again = texts(folder)(["a duck", "", "a duck"])
    np.testing.assert_array_equal(again, first[np.array([2, 1, 2])])
    one_line(texts(folder), ["a duck", "a car"], "cannot embed 'a car': .*text_encoder.* not exist")
    # The same prompts for another checkpoint are other entries.
    other = shutil.copytree(folder, tmp_path / "other")
    one_line(texts(other), ["a duck"], "cannot embed 'a duck'")


def test_an_embedding_does_not_depend_on_its_company(tmp_path):
    make(tmp_path / "model", "sd-1.5")
    together = texts(tmp_path / "model")(PROMPTS)
    shutil.rmtree(tmp_path / "cache")
    for prompt, embedding in zip(PROMPTS, together, strict=True):
        np.testing.assert_array_equal(texts(tmp_path / "model")([prompt])[0], embedding)


def test_a_changed_encoder_is_noticed(tmp_path):
    folder = tmp_path / "model"
    model, pad = make(folder, "sd-1.5")
    calls = []

    def encode(pipeline, prompts):
        calls.append(prompts)
        return encode_clip(pipeline, prompts)

    text = texts(folder, encode)
    text(PROMPTS[:2])
    text(PROMPTS[1:3])
    assert calls == [PROMPTS[:2], PROMPTS[2:3]]
    model = save_encoder(folder, "sd-1.5", seed=1)
    assert relative_error(text(PROMPTS), reference(model, pad, PROMPTS)) < 1e-5
    assert calls[2:] == [PROMPTS]

    # Another tokenizer gives other embeddings as well: this one pads differently.
    shutil.rmtree(folder / "tokenizer")
    save_old_tokenizer(folder)
    theirs = reference(model, build_tokenizer().get_vocab()["q"], PROMPTS)
    assert relative_error(text(PROMPTS), theirs) < 1e-5
    text(PROMPTS)
    assert len(calls) == 4
    assert len(list(text.cache.iterdir())) == len(PROMPTS)


def test_only_whole_entries_are_read_and_written(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    make(folder, "sd-1.5")
    text = texts(folder)
    first = text(["a duck"])
    (file,) = text.cache.iterdir()
    whole = file.read_bytes()
    aside = (folder / "text_encoder").rename(tmp_path / "aside")
    for part in (b"", whole[:5], whole[:100], whole[:-1], b"\xff" * len(whole)):
        file.write_bytes(part)
        one_line(text, ["a duck"], "cannot embed 'a duck'")
    aside.rename(folder / "text_encoder")
    np.testing.assert_array_equal(text(["a duck"]), first)
    assert len(file.read_bytes()) == len(whole)

    def disk_full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    file.unlink()
    monkeypatch.setattr("dreamfusion_jax.priors.text.save_file", disk_full)
    with pytest.warns(UserWarning, match="embeddings are not kept: No space left"):
        np.testing.assert_array_equal(text(["a duck"]), first)
    assert list(text.cache.iterdir()) == []
    elsewhere = CachedText(text.pipeline, encode_clip, folder / "model_index.json" / "cache")
    with pytest.warns(UserWarning, match="embeddings are not kept"):
        np.testing.assert_array_equal(elsewhere(["a duck"]), first)


def test_the_encoder_is_freed(tmp_path):
    make(tmp_path / "model", "sd-1.5")
    text = texts(tmp_path / "model")
    before = sum(array.nbytes for array in jax.live_arrays())
    embeddings = text(PROMPTS)
    after = sum(array.nbytes for array in jax.live_arrays())
    assert after - before <= embeddings.nbytes


def test_where_embeddings_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "dreamfusion_jax" / "embeddings"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_cache() == tmp_path / "me/.cache/dreamfusion_jax/embeddings"


def change_config(folder, **values):
    file = folder / "text_encoder" / "config.json"
    write(folder, {"text_encoder/config.json": json.loads(file.read_text()) | values})


def test_clip_that_will_not_do(tmp_path):
    folder = tmp_path / "model"
    make(folder, "sd-2.1")

    def refused(match):
        one_line(texts(folder), ["a duck"], match)
        assert not (tmp_path / "cache").exists()

    weights = folder / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused("model.safetensors is truncated")
    weights.unlink()
    refused("text_encoder holds no .* in .safetensors form")
    weights.write_bytes(whole)
    change_config(folder, intermediate_size=50)
    refused(r"text_encoder do not fit the model: .* wrongly shaped \(.*mlp.fc1.bias is \[48\]")
    change_config(folder, intermediate_size=48, hidden_act="relu")
    refused("text_encoder: CLIP config: hidden_act = 'relu' is not supported")
    change_config(folder, hidden_act="gelu", vocab_size=SMALL_CLIP["vocab_size"] - 1)
    refused(r"tokenizer has 265 tokens; the text encoder was made for 264")
    change_config(folder, vocab_size=49408)
    refused(r"tokenizer has 265 tokens; the text encoder was made for 49408")
    (folder / "tokenizer" / "merges.txt").unlink()
    refused("is no CLIPTokenizer: it has neither tokenizer.json nor vocab.json with merges.txt")
    write(folder, {"tokenizer/tokenizer.json": "{"})
    refused("tokenizer cannot be read as a CLIPTokenizer")
    shutil.rmtree(folder / "tokenizer")
    refused("tokenizer does not exist")


def test_t5_that_will_not_do(tmp_path):
    folder = tmp_path / "model"
    make(folder, "t5")
    text = texts(folder, encode_t5)
    change_config(folder, feed_forward_proj="relu")
    one_line(text, [""], "text_encoder: T5 config: feed_forward_proj = 'relu' is not supported")
    change_config(folder, feed_forward_proj="gated-gelu", vocab_size=32128)
    one_line(text, [""], "tokenizer has 9 tokens; the text encoder was made for 32128")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    # transformers itself makes 104 tokens out of nothing, without a word.
    assert len(transformers.T5Tokenizer.from_pretrained(folder / "tokenizer")) == 104
    one_line(text, [""], "is no T5Tokenizer: it has neither tokenizer.json nor spiece.model")
    (folder / "tokenizer" / "spiece.model").write_bytes(b"\xff not what it seems")
    one_line(text, [""], "pip install sentencepiece|cannot be read as a T5Tokenizer")
    assert not (tmp_path / "cache").exists()


PROGRAM = """
import sys
sys.modules["torch"] = None  # As if it were not installed.
from pathlib import Path
from dreamfusion_jax.priors.pipeline import open_pipeline
from dreamfusion_jax.priors.text import CachedText, encode_clip, encode_t5
folder = Path(sys.argv[1])
for name, encode in (("clip", encode_clip), ("t5", encode_t5)):
    pipeline = open_pipeline(str(folder / name), {})
    CachedText(pipeline, encode, folder / "cache" / "deeper")(["a duck"])
"""


def test_works_without_torch(tmp_path):
    clip, pad = make(tmp_path / "clip", "sd-2.1")
    make(tmp_path / "t5", "t5")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], check=True, env=environment)
    shutil.rmtree(tmp_path / "clip" / "text_encoder")
    shutil.rmtree(tmp_path / "t5" / "text_encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = texts(tmp_path / "clip")(["a duck"])
        texts(tmp_path / "t5", encode_t5)(["a duck"])
    assert relative_error(ours, reference(clip, pad, ["a duck"])) < 1e-5

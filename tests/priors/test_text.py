import functools
import io
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
import sentencepiece
import torch
import transformers
from helpers.text_checkpoints import (
    LENGTH,
    PROMPTS,
    SMALL_CLIP,
    SMALL_T5,
    make,
    reference,
    save_encoder,
    save_old_tokenizer,
    write,
)
from helpers.torch_models import relative_error
from safetensors.numpy import load_file

from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.diffusion.checkpoints.weights import WeightsError
from dreamfusion_jax.priors.text import CachedText, default_cache, encode_clip, encode_t5
from dreamfusion_jax.toybox.tokenizer import build_tokenizer


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
    print(f"t5: {error:.1e}; without mask {unmasked:.1e}")
    assert error < 1e-5
    assert unmasked > 1e-2
    stored = [load_file(file)["embedding"] for file in (tmp_path / "cache/deeper").iterdir()]
    assert [embedding.dtype for embedding in stored] == [jnp.float32] * 5


def test_t5_reads_a_sentencepiece_model(tmp_path, monkeypatch):
    """DeepFloyd IF comes with spiece.model alone; sentencepiece itself tells the ids."""
    folder, prompt = tmp_path / "model", "a red duck"
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(PROMPTS * 20),
        model_writer=written,
        vocab_size=20,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    # transformers adds T5's 100 sentinels.
    monkeypatch.setitem(SMALL_T5, "vocab_size", 128)
    model, _ = make(folder, "t5")
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = [*pieces.encode(prompt), 1]
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    ours = texts(folder, encode_t5)([prompt])[0]
    assert relative_error(ours[: len(ids)], theirs) < 1e-5


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


def test_several_arrays_a_prompt_are_kept_by_name(tmp_path):
    """As a prior with two encoders and a pooled vector has them (SDXL)."""
    folder = tmp_path / "model"
    make(folder, "sd-1.5")
    asked = []

    def two(pipeline, prompts):
        asked.extend(prompts)
        length = jnp.asarray([float(len(prompt)) for prompt in prompts])
        return {"states": length[:, None, None] * jnp.ones((1, 3, 2)), "pooled.2": length[:, None]}

    first = texts(folder, two)(["a duck", ""])
    again = texts(folder, two)(["", "a duck", "a car"])
    assert asked == ["a duck", "", "a car"]
    assert {name: x.shape for name, x in first.items()} == {"states": (2, 3, 2), "pooled.2": (2, 1)}
    np.testing.assert_array_equal(again["pooled.2"][:, 0], [0.0, 6.0, 5.0])
    np.testing.assert_array_equal(again["states"][:, 2, 1], [0.0, 6.0, 5.0])


@pytest.mark.parametrize(("kind", "encode"), [("sd-1.5", encode_clip), ("t5", encode_t5)])
def test_an_embedding_does_not_depend_on_its_company(kind, encode, tmp_path):
    make(tmp_path / "model", kind)
    together = texts(tmp_path / "model", encode)(PROMPTS)
    shutil.rmtree(tmp_path / "cache")
    for prompt, embedding in zip(PROMPTS, together, strict=True):
        np.testing.assert_array_equal(texts(tmp_path / "model", encode)([prompt])[0], embedding)


@pytest.mark.parametrize(("kind", "encode"), [("sd-1.5", encode_clip), ("t5", encode_t5)])
def test_what_is_read_is_told_with_its_size(kind, encode, tmp_path):
    make(tmp_path / "model", kind)
    told = []
    texts(tmp_path / "model", functools.partial(encode, say=told.append))(PROMPTS)
    size = sum(f.stat().st_size for f in (tmp_path / "model/text_encoder").glob("*.safetensors"))
    assert told[0].startswith(f"encoding {len(PROMPTS)} texts with {tmp_path / 'model'}")
    assert f"({size / 1e9:.2f} GB)" in told[0]
    assert told[1:] == (["0 of 2 layers of the text encoder are done"] if kind == "t5" else [])
    texts(tmp_path / "model", encode)(PROMPTS)  # From the cache: nothing to tell.
    assert len(told) == 1 + (kind == "t5")


def test_without_a_cpu_the_default_device_encodes(tmp_path, monkeypatch):
    """JAX_PLATFORMS=cuda leaves JAX without a CPU; here the CPU stands for the GPU."""
    here = jax.local_devices()

    def local_devices(backend=None):
        if backend is not None:
            raise RuntimeError(f"Unknown backend {backend}")
        return here

    make(tmp_path / "model", "sd-1.5")
    expected = texts(tmp_path / "model")(PROMPTS)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(jax, "local_devices", local_devices)
    np.testing.assert_array_equal(texts(tmp_path / "model")(PROMPTS), expected)


def test_an_encoder_that_is_downloaded_serves_the_next_run(tmp_path):
    folder = tmp_path / "model"
    make(folder, "sd-1.5")
    hub = (folder / "text_encoder").rename(tmp_path / "hub")

    def encode(pipeline, prompts):
        hub.rename(folder / "text_encoder")
        return encode_clip(pipeline, prompts)

    first = texts(folder, encode)(PROMPTS)
    # Encoding once more would fail: there is nothing more to download.
    np.testing.assert_array_equal(texts(folder, encode)(PROMPTS), first)


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
    refused(r"tokenizer has 312 tokens; the text encoder was made for 311")
    change_config(folder, vocab_size=49408)
    refused(r"tokenizer has 312 tokens; the text encoder was made for 49408")
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
    one_line(text, [""], "cannot be read as a T5Tokenizer")
    assert not (tmp_path / "cache").exists()


PROGRAM = """
import sys
sys.modules["torch"] = None  # As if it were not installed.
from pathlib import Path
from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.priors.text import CachedText, encode_clip, encode_t5
folder = Path(sys.argv[1])
for name, encode in (("clip", encode_clip), ("t5", encode_t5)):
    pipeline = open_pipeline(str(folder / name), {})
    CachedText(pipeline, encode, folder / "cache" / "deeper")(["a duck"])
"""


def test_works_without_torch(tmp_path):
    clip, pad = make(tmp_path / "clip", "sd-2.1")
    make(tmp_path / "t5", "t5")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], check=True, env=environment)
    shutil.rmtree(tmp_path / "clip" / "text_encoder")
    shutil.rmtree(tmp_path / "t5" / "text_encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = texts(tmp_path / "clip")(["a duck"])
        texts(tmp_path / "t5", encode_t5)(["a duck"])
    assert relative_error(ours, reference(clip, pad, ["a duck"])) < 1e-5

"""Embeddings of prompts, encoded once on the host and then kept on disk.

The encoder of DeepFloyd IF is larger than its UNet. It is read only for prompts that it has
never seen, one layer at a time. An embedding does not depend on the prompts that are encoded
with it.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import CLIPTokenizer, T5Tokenizer

from dreamfusion_jax.caches import user_cache
from dreamfusion_jax.devices import device_errors, host_device
from dreamfusion_jax.diffusion.checkpoints.checkpoint import Checkpoint
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import Params, read_params
from dreamfusion_jax.diffusion.clip import ClipTextConfig, ClipTextModel
from dreamfusion_jax.diffusion.t5 import T5Config
from dreamfusion_jax.diffusion.t5_streaming import encode_layer_by_layer
from dreamfusion_jax.priors.opened import Say

TEXT_LENGTH = 77
"""Tokens in a prompt of Stable Diffusion, which is all that CLIP reads, and of DeepFloyd IF, whose
T5 could read more, but the UNet was trained with these."""

_ENCODER, _TOKENIZER = "text_encoder", "tokenizer"
_LAYERS_TOLD = 6
_ENTRY = "embedding"
_PART = f"{_ENTRY}."
# Changed with the way prompts are encoded, so that older entries are not used.
_FORMAT = 2
# Tables of embeddings are padded to a multiple of this, as T5's from 32,100 rows to 32,128.
_TABLE_MULTIPLE = 128

Embeddings = Float[Array, "P ..."] | dict[str, Float[Array, "P ..."]]
"""Of prompts: one array, or several by name where a prior has more than one (hidden states of two
encoders, a pooled vector)."""

_Row = np.ndarray | dict[str, np.ndarray]
_Config = TypeVar("_Config")
_Tokenizer = TypeVar("_Tokenizer", CLIPTokenizer, T5Tokenizer)


def default_cache() -> Path:
    """The user's folder for embeddings, in $XDG_CACHE_HOME or ~/.cache."""
    return user_cache("embeddings")


@dataclasses.dataclass(frozen=True, eq=False)
class CachedText:
    """Embeds prompts; those embedded before need neither tokenizer nor text encoder.

    Each prompt has a small file, keyed by the checkpoint's identity and the prompt. Where text
    encoder and tokenizer are on this disk and are not the ones that wrote the file, it is
    written anew.

    Attributes:
        pipeline: The checkpoint.
        encode: Embeds prompts with its text encoders: `encode_clip` or `encode_t5`.
        cache: Folder of the files.
    """

    pipeline: Checkpoint
    encode: Callable[[Checkpoint, list[str]], Embeddings]
    cache: Path = dataclasses.field(default_factory=default_cache)

    def __call__(self, prompts: Sequence[str]) -> Embeddings:
        """Embeddings of prompts, in float32 whatever they are stored in.

        Raises:
            WeightsError: a prompt is not in the cache and cannot be encoded.
        """
        fingerprint = self._fingerprint()
        known = {prompt: self._read(prompt, fingerprint) for prompt in prompts}
        unknown = [prompt for prompt, embedding in known.items() if embedding is None]
        if unknown:
            try:
                encoded = jax.tree.map(np.asarray, self.encode(self.pipeline, unknown))
            except WeightsError as error:
                raise WeightsError(f"cannot embed {unknown[0]!r}: {error}") from error
            fingerprint = self._fingerprint()
            for number, prompt in enumerate(unknown):
                row: _Row = jax.tree.map(lambda x, at=number: x[at], encoded)
                self._write(prompt, row, fingerprint)
                known[prompt] = row
        rows = [known[prompt] for prompt in prompts]
        return jax.tree.map(lambda *x: jax.device_put(np.stack(x).astype(np.float32)), *rows)

    def _file(self, prompt: str) -> Path:
        kind = self.pipeline.classes.get(_ENCODER)
        return self.cache / f"{_digest(_FORMAT, self.pipeline.identity, kind, prompt)}.safetensors"

    def _fingerprint(self) -> str:
        """Digest of the encoder's and the tokenizer's files; empty if they are not on this disk."""
        encoder, tokenizer = (self.pipeline.files(name) for name in (_ENCODER, _TOKENIZER))
        if not tokenizer or not any(file.suffix == ".safetensors" for file in encoder):
            return ""
        stats = [(file, file.stat()) for file in encoder + tokenizer]
        return _digest([[f.name, stat.st_size, stat.st_mtime_ns] for f, stat in stats])

    def _read(self, prompt: str, fingerprint: str) -> _Row | None:
        """The stored embedding; None if there is none that is whole and of today's encoder."""
        try:
            with safe_open(self._file(prompt), framework="numpy") as file:
                if fingerprint not in ("", (file.metadata() or {}).get("fingerprint")):
                    return None
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if _ENTRY in stored:
                    return stored[_ENTRY]
                return {name.removeprefix(_PART): part for name, part in stored.items()}
        except (OSError, SafetensorError):
            return None

    def _write(self, prompt: str, embedding: _Row, fingerprint: str) -> None:
        """Stores an embedding; its file appears when it is complete."""
        about = {"prompt": prompt, "model": self.pipeline.identity, "fingerprint": fingerprint}
        if isinstance(embedding, dict):
            parts = {f"{_PART}{name}": part for name, part in embedding.items()}
        else:
            parts = {_ENTRY: embedding}
        part = None
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            # Two runs may embed the same prompt at the same time, each in a file of its own.
            with tempfile.NamedTemporaryFile(dir=self.cache, suffix=".part", delete=False) as file:
                part = Path(file.name)
            save_file(parts, part, metadata=about)
            part.replace(self._file(prompt))
        except (OSError, SafetensorError) as error:
            if part is not None:
                with contextlib.suppress(OSError):
                    part.unlink()
            warnings.warn(f"embeddings are not kept: {error}", stacklevel=2)


def encode_clip(
    pipeline: Checkpoint, prompts: list[str], say: Say | None = None
) -> Float[Array, "P N D"]:
    """Last hidden states of CLIP's text encoder in float32, as Stable Diffusion is given them.

    Prompts are padded with the tokenizer's own token (SD 2.1 pads with "!") unless the
    checkpoint names another, without a mask.

    Args:
        pipeline: The checkpoint.
        prompts: The texts.
        say: Is told what is read, and how large that is.

    Raises:
        WeightsError: tokenizer or encoder are missing, damaged or do not fit each other.
    """
    config = _read_config(pipeline, ClipTextConfig.from_json)
    tokenizer = load_clip_tokenizer(pipeline.component(_TOKENIZER), config)
    length = min(tokenizer.model_max_length, config.max_length)
    if pipeline.pad_token is not None:
        tokenizer.pad_token = pipeline.pad_token
    ids, _ = tokenize(tokenizer, prompts, length)
    model = ClipTextModel(config)
    what = f"{pipeline.identity}/{_ENCODER}"

    @jax.jit
    def forward(params: Params, ids: Int[Array, "1 N"]) -> Float[Array, "1 N D"]:
        output = model.apply({"params": params}, ids)
        assert isinstance(output, tuple)
        return output[0]

    _announce(pipeline, len(prompts), say)
    with device_errors(what), jax.default_device(host_device()):
        params = read_params(what, pipeline.tensors(_ENCODER), model)
        # One by one, or an embedding would depend on its company in the last bits.
        rows = [forward(params, ids[i : i + 1]) for i in range(len(ids))]
        return jnp.concatenate(rows).block_until_ready()


def encode_t5(
    pipeline: Checkpoint, prompts: list[str], say: Say | None = None
) -> Float[Array, "P N D"]:
    """Last hidden states of T5's encoder in float32, as DeepFloyd IF is given them.

    Prompts are stripped and lower-cased, as in diffusers where beautifulsoup4 and ftfy are not
    installed or `clean_caption` is off. Padding is masked.

    Args:
        pipeline: The checkpoint.
        prompts: The texts.
        say: Is told what is read, how large that is, and how many layers are done.

    Raises:
        WeightsError: tokenizer or encoder are missing, damaged or do not fit each other.
    """
    config = _read_config(pipeline, T5Config.from_json)
    forms = (("tokenizer.json",), ("spiece.model",))
    folder = pipeline.component(_TOKENIZER)
    tokenizer = _load_tokenizer(folder, T5Tokenizer, forms, config.vocab_size)
    prompts = [prompt.lower().strip() for prompt in prompts]
    ids, mask = tokenize(tokenizer, prompts, TEXT_LENGTH)
    what = f"{pipeline.identity}/{_ENCODER}"
    _announce(pipeline, len(prompts), say)

    def progress(done: int, layers: int) -> None:
        if say is not None and done % _LAYERS_TOLD == 0:
            say(f"{done} of {layers} layers of the text encoder are done")

    with device_errors(what), jax.default_device(host_device()):
        tensors = pipeline.tensors(_ENCODER)
        return encode_layer_by_layer(what, tensors, config, ids, mask, progress).block_until_ready()


def _announce(pipeline: Checkpoint, count: int, say: Say | None) -> None:
    if say is not None:
        volume = pipeline.volume(_ENCODER)
        say(f"encoding {count} texts with {pipeline.identity}/{_ENCODER} ({volume})")


def _read_config(
    pipeline: Checkpoint, from_json: Callable[[Mapping[str, Any]], _Config]
) -> _Config:
    values = pipeline.config(_ENCODER)
    try:
        return from_json(values)
    except ValueError as error:
        raise WeightsError(f"{pipeline.identity}, {_ENCODER}: {error}") from error


def load_clip_tokenizer(folder: Path, config: ClipTextConfig) -> CLIPTokenizer:
    """Reads the tokenizer of a CLIP text encoder from a folder.

    Raises:
        WeightsError: It is missing, damaged or does not fit the text encoder.
    """
    forms = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    return _load_tokenizer(folder, CLIPTokenizer, forms, config.vocab_size)


def _load_tokenizer(
    folder: Path,
    kind: type[_Tokenizer],
    forms: tuple[tuple[str, ...], ...],
    rows: int,
) -> _Tokenizer:
    """Reads a tokenizer that comes in one of the forms (sets of files).

    transformers makes up a vocabulary where the files are missing: hence the checks.
    """
    names = {file.name for file in folder.iterdir()}
    if not any(names.issuperset(form) for form in forms):
        wanted = " nor ".join(" with ".join(form) for form in forms)
        raise WeightsError(f"{folder} is no {kind.__name__}: it has neither {wanted}")
    try:
        tokenizer = kind.from_pretrained(folder)
    except Exception as error:  # The libraries below raise errors of every kind.
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{folder} cannot be read as a {kind.__name__}: {reason}") from error
    if not rows - _TABLE_MULTIPLE < len(tokenizer) <= rows:
        raise WeightsError(
            f"{folder} has {len(tokenizer)} tokens; the text encoder was made for {rows}"
        )
    return tokenizer


def tokenize(
    tokenizer: _Tokenizer, prompts: list[str], length: int
) -> tuple[Int[np.ndarray, "P N"], Bool[np.ndarray, "P N"]]:
    """Ids, padded or cut to a length, and where they are not padding.

    Args:
        tokenizer: The tokenizer.
        prompts: What to read; a warning says what was cut off.
        length: Tokens in a row.
    """
    for prompt in prompts:
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > length:
            rest = tokenizer.decode(ids[length - 1 : -1])
            message = f"a prompt has more than {length} tokens; not read: {rest!r}"
            warnings.warn(message, stacklevel=2)
    batch = tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="np"
    )
    return batch.input_ids.astype(np.int32), batch.attention_mask.astype(bool)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

"""CLIP as a judge of pictures: cosines of pictures and captions (2103.00020).

Any checkpoint in transformers' layout serves: B/32, B/16 and L/14 of OpenAI, and others of the
same architecture. The models are our own, in Flax; no PyTorch is needed.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import Params, load_params
from dreamfusion_jax.diffusion.clip import ClipConfig, ClipModel
from dreamfusion_jax.looks.media import to_uint8

_PREPROCESSOR = "preprocessor_config.json"
# What transformers assumes where a preprocessor's configuration is silent; resample 3 is bicubic.
_DEFAULTS = {
    "size": 224,
    "crop_size": 224,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_BATCH = 16
"""Pictures or captions that are encoded at a time."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How pictures are made ready for an image encoder, as CLIP's own program does it.

    Attributes:
        size: Length that the shorter side is resized to, by PIL's bicubic filter on bytes.
        crop: Height and width of the middle that is kept.
        resample: PIL's number of the filter.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
    """

    size: int
    crop: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Reads the dictionary of a preprocessor_config.json.

        Raises:
            ValueError: It asks for something else than a square.
        """
        values = _DEFAULTS | values
        return cls(
            size=_side(values["size"]),
            crop=_side(values["crop_size"]),
            resample=values["resample"],
            mean=tuple(values["image_mean"]),
            std=tuple(values["image_std"]),
        )

    def __call__(self, pictures: Float[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B S S 3"]:
        """Resizes, crops and normalizes pictures in [0, 1], not smaller than the crop when resized.

        The steps are those of the original, on bytes; `jax.image.resize` differs by up to 4 / 255.
        """
        return np.stack([self._one(picture) for picture in to_uint8(pictures)])

    def _one(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image

        image = Image.fromarray(picture)
        width, height = (self.size * length // min(image.size) for length in image.size)
        image = image.resize((width, height), Image.Resampling(self.resample))
        left, top = ((length - self.crop) // 2 for length in image.size)
        image = image.crop((left, top, left + self.crop, top + self.crop))
        values = np.asarray(image, np.float32) / 255
        return (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def _side(size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    sides = set(size.values())
    if len(sides) != 1:
        raise ValueError(f"pictures of CLIP are squares; {_PREPROCESSOR} says {size}")
    return sides.pop()


@dataclasses.dataclass(frozen=True, eq=False)
class ClipScorer:
    """A `r_precision.Scorer`. Made by `load_clip`.

    Attributes:
        name: For tables.
        model: Both encoders.
        params: Their parameters.
        tokenizer: A CLIPTokenizer.
        preprocessing: Of the pictures.
    """

    name: str
    model: ClipModel
    params: Params
    tokenizer: Any
    preprocessing: Preprocessing

    def __call__(
        self, pictures: Float[np.ndarray, "B H W 3"], captions: Sequence[str]
    ) -> Float[np.ndarray, "B P"]:
        """Cosines of pictures in [0, 1] and captions."""
        images = self._encode("encode_image", self.preprocessing(pictures))
        texts = self._encode("encode_text", self._ids(captions))
        return images @ texts.T

    def _ids(self, captions: Sequence[str]) -> np.ndarray:
        from dreamfusion_jax.priors.text import tokenize

        length = min(self.tokenizer.model_max_length, self.model.config.text.max_length)
        return tokenize(self.tokenizer, list(captions), length)[0]

    def _encode(self, method: str, inputs: np.ndarray) -> Float[np.ndarray, "B D"]:
        """Unit vectors; the last batch is filled up, so that one program serves all."""

        @jax.jit
        def encode(params: Params, batch: Array) -> Array:
            vectors: Any = self.model.apply({"params": params}, batch, method=method)
            return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

        short = -len(inputs) % _BATCH
        filled = np.concatenate([inputs, inputs[:1].repeat(short, axis=0)])
        vectors = [encode(self.params, b) for b in np.split(filled, len(filled) // _BATCH)]
        return np.concatenate(vectors)[: len(inputs)]


def load_clip(folder: Path) -> ClipScorer:
    """Reads a CLIP checkpoint in transformers' layout.

    Args:
        folder: With config.json, the tensors as safetensors, the tokenizer's files and, where
            pictures are not prepared as usual, preprocessor_config.json.

    Raises:
        WeightsError: Tensors or tokenizer are missing or damaged, or do not fit each other.
        ValueError: It is not a CLIP model that is supported.
    """
    from dreamfusion_jax.priors.text import load_clip_tokenizer

    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} holds no CLIP model (no config.json)")
    config = ClipConfig.from_json(_read(folder / "config.json"))
    prepared = folder / _PREPROCESSOR
    model = ClipModel(config)
    scorer = ClipScorer(
        name=folder.resolve().name,
        model=model,
        params=load_params(folder, model),
        tokenizer=load_clip_tokenizer(folder, config.text),
        preprocessing=Preprocessing.from_json(_read(prepared) if prepared.is_file() else {}),
    )
    if scorer.preprocessing.crop != config.vision.image_size:
        raise WeightsError(
            f"{prepared} makes pictures of {scorer.preprocessing.crop} pixels; "
            f"the image encoder takes {config.vision.image_size}"
        )
    return scorer


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error

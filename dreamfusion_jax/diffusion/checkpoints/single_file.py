"""Stable Diffusion 1.x and 2.x in one .safetensors file, with the names of the original code."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamfusion_jax.diffusion.checkpoints import hub, ldm_names
from dreamfusion_jax.diffusion.checkpoints.checkpoint import Volume
from dreamfusion_jax.diffusion.checkpoints.known_kinds import KINDS, FilePrediction, Kind
from dreamfusion_jax.diffusion.checkpoints.tensors import (
    Tensor,
    Tensors,
    WeightsError,
    file_metadata,
    open_file,
)
from dreamfusion_jax.diffusion.checkpoints.weights import tensor_shapes
from dreamfusion_jax.diffusion.clip import ClipTextConfig, ClipTextModel
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig

DEFAULT_TOKENIZER = "openai/clip-vit-large-patch14"
"""The vocabulary of all Stable Diffusions; a file of weights holds none."""

_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
# Longest text and padding are the kind's.
_TOKENIZER_FILES = ("vocab.json", "merges.txt")
# Tensors that only another kind of model has, by a part of their names; the first that fits.
_OTHERS = (
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "FLUX"),
    ("control_model.", "a ControlNet"),
    ("lora_down.", "a LoRA, to be merged into a checkpoint"),
    ("lora_A.", "a LoRA, to be merged into a checkpoint"),
    ("lora.down.", "a LoRA, to be merged into a checkpoint"),
    ("hada_w1_a", "a LoHa, which is not read"),
    ("lokr_w", "a LoKr, which is not read"),
    (".label_emb.", "a model with class labels, such as an upscaler or unCLIP"),
)
_CONTEXT = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_FIRST = "input_blocks.0.0.weight"


@dataclasses.dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file; see `checkpoint.Checkpoint`. Made by `open_single_file`.

    Attributes:
        file: The file.
        kind: The configurations of its components.
        prediction_type: What its UNet predicts.
        tokenizer: Folder of the tokenizer, or REPO[@REVISION] on the hub.
    """

    file: Path
    kind: Kind
    prediction_type: str
    tokenizer: str = DEFAULT_TOKENIZER

    @property
    def identity(self) -> str:
        """The file's absolute path, size and time of change, and the tokenizer's place."""
        stat = self.file.stat()
        about = f"{stat.st_size} {stat.st_mtime_ns} {self.tokenizer}"
        return f"{self.file}#{hashlib.sha256(about.encode()).hexdigest()[:12]}"

    @property
    def classes(self) -> Mapping[str, str]:
        """Class name of each component."""
        return _CLASSES

    @property
    def pad_token(self) -> str | None:
        """What this kind was trained with, whatever the tokenizer's files say."""
        return self.kind.pad_token

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """The configuration of a component of this kind.

        Raises:
            WeightsError: There is no such component.
        """
        if name == "scheduler":
            return {**self.kind.scheduler, "prediction_type": self.prediction_type}
        if name == "unet":
            size = self.kind.sample_sizes[self.prediction_type]
            return {**self.kind.unet, "sample_size": size}
        parts = {"vae": self.kind.vae, "text_encoder": self.kind.text_encoder}
        if name not in parts:
            raise WeightsError(f"{self.file} has no {name}/{file}")
        return dict(parts[name])

    def tensors(self, name: str) -> Tensors:
        """A component's tensors, not yet read, by diffusers' and transformers' names.

        Raises:
            WeightsError: The file is damaged, or has tensors that this kind has not.
        """
        stored = open_file(self.file)
        match name:
            case "unet":
                return _unet_tensors(self, stored)
            case "vae":
                return _vae_tensors(self, stored)
            case "text_encoder":
                return _text_tensors(self, stored)
        raise WeightsError(f"{self.file} has no {name}")

    def volume(self, name: str) -> Volume:
        """How large a component's tensors are in the file.

        Raises:
            WeightsError: The file is damaged.
        """
        prefixes = {"unet": (ldm_names.UNET,), "vae": (ldm_names.VAE,)}.get(
            name, (ldm_names.CLIP, ldm_names.OPEN_CLIP)
        )
        stored = open_file(self.file)
        return Volume(sum(t.bytes for n, t in stored.items() if n.startswith(prefixes)))

    def component(self, name: str) -> Path:
        """The folder of the tokenizer, downloaded if it has to be.

        Raises:
            WeightsError: It cannot be had.
        """
        if name != "tokenizer":
            raise WeightsError(f"{self.file} has no folder {name}")
        folder = self._local_tokenizer()
        if folder is not None:
            return folder
        repo, _, revision = self.tokenizer.partition("@")
        try:
            # A repository of a whole model has a folder for it.
            files = [hub.fetch(repo, revision or None, f"tokenizer/{f}") for f in _TOKENIZER_FILES]
        except WeightsError:
            files = [hub.fetch(repo, revision or None, f) for f in _TOKENIZER_FILES]
        return files[0].parent

    def files(self, name: str) -> list[Path]:
        """The files of a component that are on this disk now."""
        if name in ("unet", "vae", "text_encoder"):
            return [self.file]
        folder = self._local_tokenizer() if name == "tokenizer" else None
        return [] if folder is None else sorted(p for p in folder.glob("*") if p.is_file())

    def _local_tokenizer(self) -> Path | None:
        folder = Path(self.tokenizer).expanduser()
        if (folder / "tokenizer").is_dir():
            return folder / "tokenizer"
        return folder if folder.is_dir() else None


def open_single_file(
    file: Path | str,
    *,
    prediction_type: FilePrediction | None = None,
    tokenizer: str | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> SingleFile:
    """Recognises which Stable Diffusion a file holds, by the shapes of its tensors.

    Args:
        file: The .safetensors file.
        prediction_type: What the UNet predicts, where the file does not tell: SD 2.x comes as
            both. None asks the file, and takes "epsilon" for SD 1.x.
        tokenizer: Folder of a CLIP tokenizer (or of a checkpoint in diffusers' layout), or
            REPO[@REVISION] on the hub; None for `DEFAULT_TOKENIZER`.
        kinds: The kinds that are known.

    Raises:
        WeightsError: It is damaged or another kind of model, or does not say what it predicts.
    """
    file = Path(file).expanduser().resolve()
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} is not a .safetensors file; other formats may hold code")
    stored = open_file(file)
    kind = _recognise(file, stored, kinds)
    said = _said_prediction(file, stored)
    if said is not None and prediction_type not in (None, said):
        raise WeightsError(f"{file} says that it predicts {said}, not {prediction_type}")
    prediction = prediction_type or said or kind.prediction_type
    if prediction is None:
        raise WeightsError(
            f"{file} is a {kind.name}, of which some predict epsilon (those for pictures of 512) "
            "and some v_prediction (for 768), and the file does not tell: say which"
        )
    return SingleFile(file, kind, prediction, tokenizer or DEFAULT_TOKENIZER)


def _recognise(file: Path, stored: Tensors, kinds: Sequence[Kind]) -> Kind:
    for part, what in _OTHERS:
        name = next((name for name in stored if part in name), None)
        if name is not None:
            raise WeightsError(f"{file} is {what} ({name}); read are Stable Diffusion 1.x and 2.x")
    context, first = stored.get(ldm_names.UNET + _CONTEXT), stored.get(ldm_names.UNET + _FIRST)
    if context is None or first is None:
        raise WeightsError(
            f"{file} has no {ldm_names.UNET + _CONTEXT}: not a whole Stable Diffusion 1.x or 2.x"
        )
    channels = first.shape[1]
    if channels != 4:
        what = {9: "an inpainting model", 8: "a picture-editing model", 5: "a depth model"}
        raise WeightsError(
            f"{file} is {what.get(channels, 'another kind of model')}: its UNet takes {channels} "
            "channels; a text-to-image model takes 4"
        )
    width = context.shape[-1]
    kind = next((kind for kind in kinds if kind.unet["cross_attention_dim"] == width), None)
    if kind is None:
        known = ", ".join(f"{k.name} ({k.unet['cross_attention_dim']})" for k in kinds)
        raise WeightsError(f"{file}: its text is {width} wide; known: {known}")
    return kind


def _said_prediction(file: Path, stored: Tensors) -> str | None:
    """What a file says of its UNet's prediction: by a mark, or in the words of ModelSpec."""
    if "v_pred" in stored:
        return "v_prediction"
    said = file_metadata(file).get("modelspec.prediction_type", "").lower()
    return {"v": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}.get(said)


def _unet_tensors(checkpoint: SingleFile, stored: Tensors) -> Tensors:
    config = UNetConfig.from_json(checkpoint.config("unet"))
    shapes = tensor_shapes(UNet2DConditionModel(config))
    names = {new: ldm_names.UNET + old for new, old in ldm_names.unet_names(config, shapes).items()}
    return _pick(checkpoint.file, stored, ldm_names.UNET, names, shapes)


def _vae_tensors(checkpoint: SingleFile, stored: Tensors) -> Tensors:
    config = VaeConfig.from_json(checkpoint.config("vae"))
    shapes = tensor_shapes(AutoencoderKL(config))
    names = {name: ldm_names.VAE + ldm_names.vae_name(name, config.levels) for name in shapes}
    return _pick(checkpoint.file, stored, ldm_names.VAE, names, shapes)


def _text_tensors(checkpoint: SingleFile, stored: Tensors) -> Tensors:
    prefix = ldm_names.CLIP
    if any(name.startswith(prefix) for name in stored):
        return {n.removeprefix(prefix): x for n, x in stored.items() if n.startswith(prefix)}
    # OpenCLIP. It has one layer more, which Stable Diffusion 2 does not ask, and a projection.
    config = ClipTextConfig.from_json(checkpoint.config("text_encoder"))
    tensors = {}
    for name in tensor_shapes(ClipTextModel(config)):
        old, third = ldm_names.open_clip_name(name)
        tensor = stored.get(ldm_names.OPEN_CLIP + old)
        if tensor is not None:
            tensors[name] = tensor if third is None else _third(tensor, third)
    return tensors


def _third(tensor: Tensor, index: int) -> Tensor:
    """One of the three tensors that are stacked along the first axis."""
    length = tensor.shape[0] // 3
    part = slice(index * length, (index + 1) * length)
    return Tensor((length, *tensor.shape[1:]), tensor.dtype, lambda i: tensor[part][i])


def _pick(
    file: Path,
    stored: Tensors,
    prefix: str,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> Tensors:
    """The tensors by their new names, as matrices where they are stored as 1x1 convolutions."""
    # The loss of the VAE's training, in some files.
    rest = {name for name in stored if name.startswith(prefix)} - set(names.values())
    rest = sorted(
        name for name in rest if not name.startswith((f"{prefix}loss.", f"{prefix}model_ema"))
    )
    if rest:
        raise WeightsError(f"{file} has tensors that are not this model's, the first is {rest[0]}")
    return {
        name: _reshape(stored[old], shapes[name]) for name, old in names.items() if old in stored
    }


def _reshape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    old = tensor.shape
    if old == (*shape, 1, 1) or (*old, 1, 1) == shape:
        return tensor.derive(shape, lambda x: x.reshape(shape))
    return tensor

"""LoRA files (2106.09685) merged into the weights of a checkpoint while these are read.

W + s (alpha / r) B A for each matrix or convolution W that the file names, with B A of rank r.
Read are the names of diffusers and peft, and those of kohya's scripts.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamfusion_jax.diffusion.checkpoints.checkpoint import Checkpoint, Volume
from dreamfusion_jax.diffusion.checkpoints.tensors import (
    Tensor,
    Tensors,
    WeightsError,
    file_metadata,
    open_file,
)

_PARTS = ("unet", "text_encoder")
# Tensors of relatives of LoRA, and of LoRAs for other models, by a part of their names.
_OTHERS = (
    ("hada_", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    ("lora_mid", "a LoRA in Tucker's decomposition"),
    ("oft_", "an OFT"),
    ("lora_te2_", "a LoRA for Stable Diffusion XL"),
    ("text_encoder_2.", "a LoRA for Stable Diffusion XL"),
    ("transformer_blocks.", "a LoRA for Stable Diffusion 3 or FLUX"),
    ("lora_transformer_", "a LoRA for Stable Diffusion 3 or FLUX"),
)
_ROLES = (
    (r"\.(?:lora_down|lora\.down|lora_linear_layer\.down|lora_A(?:\.\w+)?)\.weight$", "down"),
    (r"\.(?:lora_up|lora\.up|lora_linear_layer\.up|lora_B(?:\.\w+)?)\.weight$", "up"),
    (r"\.alpha$", "alpha"),
)
_PREFIXES = (
    ("base_model.model.", None),
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te_", "text_encoder"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
)
# Older names of diffusers: an attention's four matrices belonged to its "processor".
_OLD = (
    (r"\.processor\.to_out_lora\.", ".to_out.0.lora."),
    (r"\.processor\.to_([qkv])_lora\.", r".to_\1.lora."),
    (r"\.self_attn\.to_(q|k|v|out)_lora\.", r".self_attn.\1_proj.lora."),
)


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA file and how strongly it is applied.

    Attributes:
        file: The .safetensors file.
        scale: s; 1 is what it was trained with.
    """

    file: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads FILE[:SCALE]."""
        file, _, scale = text.rpartition(":")
        try:
            return cls(Path(file).expanduser(), float(scale))
        except ValueError:
            return cls(Path(text).expanduser())

    @functools.cached_property
    def modules(self) -> dict[str, dict[str, "Factors"]]:
        """What is added to which module, by component and by the module's underscored path.

        Raises:
            WeightsError: It is damaged, another kind of file, or holds a tensor that fits nothing.
        """
        stored = open_file(self.file)
        _check_kind(self.file, stored)
        found: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, tensor in stored.items():
            part, module, role = _parse_name(self.file, name)
            found.setdefault((part, module), {})[role] = tensor
        alphas = _Alphas.of(self.file)
        modules: dict[str, dict[str, Factors]] = {part: {} for part in _PARTS}
        for (part, module), roles in found.items():
            if not {"down", "up"} <= roles.keys():
                raise WeightsError(f"{self.file}: {part} {module} has only {', '.join(roles)}")
            rank = roles["down"].shape[0]
            alpha = float(roles["alpha"][...]) if "alpha" in roles else alphas(part, module, rank)
            factors = Factors(module, roles["down"], roles["up"], self.scale * alpha / rank)
            modules[part][module.replace(".", "_")] = factors
        return modules

    @functools.cached_property
    def digest(self) -> str:
        """Of the file's content and the scale."""
        with self.file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        return hashlib.sha256(f"{content} {self.scale!r}".encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Factors:
    """What a LoRA adds to a weight: scale * up * down.

    Attributes:
        name: The module, in the file's words.
        down: [r, in] or, of a convolution, [r, in, height, width].
        up: [out, r] or [out, r, 1, 1].
        scale: s alpha / r.
    """

    name: str
    down: Tensor
    up: Tensor
    scale: float

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the product has the shape of a weight."""
        rank, *inputs = self.down.shape
        one = (1,) * (len(self.up.shape) - 2)
        size = int(np.prod(inputs))
        return self.up.shape == (shape[0], rank, *one) and size == int(np.prod(shape[1:]))

    def add_to(self, weight: Tensor) -> Tensor:
        """The weight with the product added, computed in float32 when it is read."""

        def add(stored: np.ndarray) -> Float[np.ndarray, "..."]:
            up, down = (x[:].astype(np.float32) for x in (self.up, self.down))
            product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            return stored.astype(np.float32) + self.scale * product.reshape(stored.shape)

        return dataclasses.replace(weight.derive(weight.shape, add), dtype="F32")


@dataclasses.dataclass(frozen=True)
class Merged:
    """A checkpoint with LoRAs merged into it; see `checkpoint.Checkpoint`.

    Attributes:
        base: The checkpoint.
        loras: What is merged into it, one after the other.

    Raises:
        WeightsError: A LoRA cannot be read.
    """

    base: Checkpoint
    loras: Sequence[Lora]

    def __post_init__(self) -> None:
        for lora in self.loras:
            _ = lora.modules  # A file that is none is refused before the checkpoint is read.

    @property
    def identity(self) -> str:
        """The checkpoint's, with the LoRAs that change the text encoder."""
        digests = [lora.digest for lora in self.loras if lora.modules["text_encoder"]]
        return "+".join([self.base.identity, *digests])

    @property
    def classes(self) -> Mapping[str, str]:
        """The checkpoint's."""
        return self.base.classes

    @property
    def pad_token(self) -> str | None:
        """The checkpoint's."""
        return self.base.pad_token

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """The checkpoint's."""
        return self.base.config(name, file)

    def component(self, name: str) -> Path:
        """The checkpoint's."""
        return self.base.component(name)

    def volume(self, name: str) -> Volume:
        """The checkpoint's."""
        return self.base.volume(name)

    def files(self, name: str) -> list[Path]:
        """The checkpoint's."""
        return self.base.files(name)

    def tensors(self, name: str) -> Tensors:
        """A component's tensors, not yet read, which are changed when they are.

        Raises:
            WeightsError: They cannot be had, or a LoRA is for another model.
        """
        tensors = dict(self.base.tensors(name))
        for lora in self.loras:
            _merge(lora.file, lora.modules.get(name, {}), tensors)
        return tensors


def _merge(file: Path, modules: Mapping[str, Factors], tensors: Tensors) -> None:
    """Changes the weights of modules."""
    weights = {}
    for name in tensors:
        if name.endswith(".weight"):
            path = name.removesuffix(".weight").replace(".", "_")
            # Text encoders come with and without this prefix; so do LoRAs.
            weights[path.removeprefix("text_model_")] = name
    for path, factors in modules.items():
        name = weights.get(path.removeprefix("text_model_"))
        if name is None:
            raise WeightsError(f"{file} is for another model: there is no {factors.name}")
        if not factors.fits(tensors[name].shape):
            raise WeightsError(
                f"{file} is for another model: {factors.name} maps {list(factors.down.shape)} and "
                f"{list(factors.up.shape)} to a weight of {list(tensors[name].shape)}"
            )
        tensors[name] = factors.add_to(tensors[name])


def _check_kind(file: Path, stored: Tensors) -> None:
    for part, what in _OTHERS:
        for name in stored:
            # In UNets, this one is within a block; there it is no sign of another model.
            inside = part == "transformer_blocks." and not name.startswith(
                ("transformer_blocks.", "transformer.transformer_blocks.")
            )
            if part in name and not inside:
                raise WeightsError(f"{file} is {what} ({name}), which is not read")


def _parse_name(file: Path, name: str) -> tuple[str, str, str]:
    """Component, module and role ("down", "up", "alpha") of a LoRA's tensor."""
    rest = name
    for pattern, replacement in _OLD:
        rest = re.sub(pattern, replacement, rest)
    part = "text_encoder" if rest.startswith("text_model.") else "unet"
    for prefix, component in _PREFIXES:
        if rest.startswith(prefix):
            rest = rest.removeprefix(prefix)
            part = component or part
    for pattern, role in _ROLES:
        module, count = re.subn(pattern, "", rest)
        if count:
            return part, module, role
    raise WeightsError(f"{file} holds {name}, which is no part of a LoRA that is read here")


@dataclasses.dataclass(frozen=True)
class _Alphas:
    """alpha where a file says it beside the tensors, as newer diffusers do; else the rank."""

    said: Mapping[str, Any]

    @classmethod
    def of(cls, file: Path) -> "_Alphas":
        try:
            said = json.loads(file_metadata(file).get("lora_adapter_metadata", "{}"))
        except ValueError as error:
            raise WeightsError(f"{file} is damaged: its metadata are not JSON") from error
        for key, value in said.items():
            if key.split(".")[-1] in ("use_dora", "use_rslora") and value:
                raise WeightsError(f"{file} says {key.split('.')[-1]}, which is not read")
        return cls(said)

    def __call__(self, part: str, module: str, rank: int) -> float:
        for pattern, alpha in (self._find(part, "alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(alpha)
        return float(self._find(part, "lora_alpha") or rank)

    def _find(self, part: str, name: str) -> Any:
        """A pipeline's file names the component before each setting, a model's own does not."""
        return self.said.get(f"{part}.{name}", self.said.get(name))

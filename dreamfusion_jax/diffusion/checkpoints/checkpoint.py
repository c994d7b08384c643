"""What the priors ask of a checkpoint, in whichever form its files are."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dreamfusion_jax.diffusion.checkpoints.tensors import Tensors


@dataclasses.dataclass(frozen=True)
class Volume:
    """How large files are, bytes.

    Attributes:
        size: Of all of them.
        missing: Of those that have to be downloaded first.
    """

    size: int
    missing: int = 0

    def __add__(self, other: "Volume") -> "Volume":
        return Volume(self.size + other.size, self.missing + other.missing)

    def __str__(self) -> str:
        size = f"{self.size / 1e9:.2f} GB"
        if self.missing == 0:
            return size
        if self.missing == self.size:
            return f"{size}, to be downloaded"
        return f"{size}, of which {self.missing / 1e9:.2f} GB are to be downloaded"


@runtime_checkable
class Checkpoint(Protocol):
    """A diffusion model's configurations and tensors, by component: "unet", "text_encoder"."""

    @property
    def identity(self) -> str:
        """What a cache of embeddings is keyed by: another text encoder has another identity."""
        ...

    @property
    def classes(self) -> Mapping[str, str]:
        """Class name of each component, in diffusers' and transformers' words."""
        ...

    @property
    def pad_token(self) -> str | None:
        """What texts are padded with; None for the tokenizer's own."""
        ...

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """The values in a component's JSON file.

        Raises:
            WeightsError: It cannot be had.
        """
        ...

    def tensors(self, name: str) -> Tensors:
        """A component's tensors, not yet read, by diffusers' and transformers' names.

        Raises:
            WeightsError: They cannot be had.
        """
        ...

    def volume(self, name: str) -> Volume:
        """How large the files of a component's weights are.

        Raises:
            WeightsError: It cannot be known.
        """
        ...

    def component(self, name: str) -> Path:
        """The folder of a component that comes as files, such as the tokenizer.

        Raises:
            WeightsError: It cannot be had.
        """
        ...

    def files(self, name: str) -> list[Path]:
        """The files of a component that are on this disk now; nothing is downloaded."""
        ...

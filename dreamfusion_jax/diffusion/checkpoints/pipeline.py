"""Checkpoints in diffusers' layout: a local folder, or a repository on the Hugging Face hub."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dreamfusion_jax.diffusion.checkpoints import hub
from dreamfusion_jax.diffusion.checkpoints.checkpoint import Volume
from dreamfusion_jax.diffusion.checkpoints.tensors import (
    FULL,
    HALF,
    PICKLES,
    Tensors,
    WeightsError,
    find_weights,
    open_tensors,
    shard_names,
    weight_files,
)

INDEX = "model_index.json"

# What a class name in model_index.json gives away, the first that fits; these are not read.
_OTHER_KINDS = (
    ("StableDiffusionXL", "Stable Diffusion XL"),
    ("StableDiffusion3", "Stable Diffusion 3, a flow-matching transformer"),
    ("Flux", "FLUX, a flow-matching transformer"),
    ("ControlNet", "a ControlNet, which needs pictures as well as text"),
    ("Adapter", "an adapter, which needs pictures as well as text"),
    ("Inpaint", "an inpainting model, which fills holes in pictures"),
    ("Img2Img", "an image-to-image model, which starts from pictures"),
    ("Depth2Img", "a depth-to-image model, which starts from pictures"),
    ("Pix2Pix", "a picture-editing model, which starts from pictures"),
    ("ImageVariation", "an image-variation model, which starts from pictures"),
    ("Upscale", "an upscaler, which enlarges pictures (stage III of DeepFloyd IF is one)"),
    ("SuperResolution", "an upscaler, which enlarges pictures, as stage II of DeepFloyd IF"),
    ("Video", "a video model"),
)
_SMALL = (".json", ".txt", ".model")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A checkpoint in diffusers' layout, of which each part is fetched when it is asked for.

    Attributes:
        identity: "repo@commit", or the folder's absolute path; what a cache is keyed by.
        classes: Class name of each component, from model_index.json.
        root: The folder, or the repository's folder in the hub's cache.
        repo: OWNER/NAME on the hub; None for a folder.
    """

    identity: str
    classes: Mapping[str, str]
    root: Path
    repo: str | None = None

    @property
    def pad_token(self) -> str | None:
        """Texts are padded as the tokenizer's files say."""
        return None

    def tensors(self, name: str) -> Tensors:
        """A component's tensors, not yet read; downloaded if they have to be.

        Raises:
            WeightsError: They do not exist, are damaged or cannot be downloaded.
        """
        return open_tensors(self.component(name))

    def volume(self, name: str) -> Volume:
        """How large the files of a component's weights are.

        Raises:
            WeightsError: They do not exist, or the hub cannot be asked.
        """
        if self.repo is None:
            return Volume(sum(file.stat().st_size for file in weight_files(self.root / name)))
        commit, repo = self.root.name, self.repo
        return sum((hub.volume(repo, commit, file) for file in self._weights(name)), Volume(0))

    def component(self, name: str) -> Path:
        """The folder of a component with its weights, downloaded if it has to be.

        Raises:
            WeightsError: it does not exist or cannot be downloaded.
        """
        if self.repo is not None:
            self._download(name)
        folder = self.root / name
        if not folder.is_dir():
            raise WeightsError(f"{folder} does not exist")
        return folder

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        """The values in a component's JSON file; of a repository, only this file is downloaded.

        Raises:
            WeightsError: it does not exist, is not JSON, or cannot be downloaded.
        """
        if self.repo is not None:
            self._fetch(f"{name}/{file}")
        return _read_json(self.root / name / file)

    def files(self, name: str) -> list[Path]:
        """The files of a component that are on this disk now; nothing is downloaded."""
        return sorted(path for path in (self.root / name).glob("*") if path.is_file())

    def _fetch(self, file: str) -> Path:
        assert self.repo is not None
        return hub.fetch(self.repo, self.root.name, file)

    def _download(self, name: str) -> None:
        """Completes a component in the hub's cache; the weights come last."""
        for file in self._weights(name):
            self._fetch(file)

    def _weights(self, name: str) -> list[str]:
        """A component's files of weights; where these are not cached, all else is fetched."""
        cached = {path.name for path in self.files(name)}
        # What is there is taken, in the order in which `open_tensors` looks for it.
        weights = find_weights(cached, (FULL, HALF))
        if weights is None:
            weights = self._download_small(name, cached)
        if weights is None:
            return []
        if not weights.endswith(".json"):
            return [f"{name}/{weights}"]
        index = self._fetch(f"{name}/{weights}")
        return [f"{name}/{shard}" for shard in shard_names(index)]

    def _download_small(self, name: str, cached: Collection[str]) -> str | None:
        """Fetches all but the weights, and tells which file of the weights to fetch, if any.

        Half precision is preferred: it is half as large, and the models compute in bfloat16
        where size matters.
        """
        assert self.repo is not None
        try:
            names = hub.list_files(self.repo, self.root.name, name)
        except WeightsError:
            if not cached or "config.json" in cached:  # A model, whose weights are not there.
                raise
            return None
        for file in names:
            if file.endswith(_SMALL) and ".index." not in file:
                self._fetch(f"{name}/{file}")
        weights = find_weights(names, (HALF, FULL))
        pickles = [file for file in names if file.endswith(PICKLES)]
        if weights is None and pickles:
            raise WeightsError(
                f"{self.repo} holds no {name} in .safetensors form; "
                f"{', '.join(pickles)} may hold code and is not read"
            )
        return weights


def open_pipeline(source: str, supported: Mapping[str, tuple[str, ...]]) -> Pipeline:
    """Finds a checkpoint and checks that it is of a kind that is known.

    Args:
        source: REPO_OR_FOLDER[@REVISION]; a folder that exists comes first.
        supported: The components that are needed, and the class names that each may have.

    Raises:
        WeightsError: there is no such folder or repository, or no access to it, or it is not
            a checkpoint in diffusers' layout, or a component is missing or not supported.
    """
    folder = Path(source).expanduser()
    if folder.suffix in PICKLES:
        raise WeightsError(f"{source} may hold code and is not read, only .safetensors files are")
    if folder.is_dir():
        root, repo = folder.resolve(), None
        if not (root / INDEX).is_file():
            raise WeightsError(f"{root} has no {INDEX}: not a checkpoint in diffusers' layout")
    else:
        repo, revision = _parse_repo(source)
        root = hub.fetch(repo, revision, INDEX).parent
    # In the hub's cache, a folder is called as the commit that it holds.
    identity = str(root) if repo is None else f"{repo}@{root.name}"
    index = _read_json(root / INDEX)
    _check_kind(identity, index.get("_class_name"))
    classes = {
        name: entry[1]
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
    }
    for name, choices in supported.items():
        known = " or ".join(choices)
        if name not in classes:
            raise WeightsError(f"{identity} has no {name} ({known})")
        if classes[name] not in choices:
            raise WeightsError(f"{identity}: {name} is a {classes[name]}; supported: {known}")
    return Pipeline(identity, classes, root, repo)


def _check_kind(identity: str, pipeline: Any) -> None:
    """Refuses the kinds of pipelines that are well known and do not serve, by name."""
    for part, what in _OTHER_KINDS:
        if isinstance(pipeline, str) and part in pipeline:
            raise WeightsError(
                f"{identity} is a {pipeline}: {what}; read are text-to-image models of the kinds "
                "Stable Diffusion 1.x and 2.x and the first stage of DeepFloyd IF"
            )


def _parse_repo(source: str) -> tuple[str, str | None]:
    """Splits OWNER/NAME[@REVISION] and rules out what was meant to be a path."""
    repo, _, revision = source.partition("@")
    if Path(repo).expanduser().is_dir():
        raise WeightsError(f"{repo} is a folder; a folder has no revisions")
    if Path(source).expanduser().is_file():
        raise WeightsError(f"{source} is a file; needed is a folder in diffusers' layout")
    if repo.startswith((".", "/", "~")) or "\\" in repo or repo.count("/") > 1:
        raise WeightsError(f"no such folder: {source} (a repository on the hub is OWNER/NAME)")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise WeightsError(f"{source!r} is neither a folder nor OWNER/NAME on the hub") from error
    return repo, revision or None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{file} does not exist or cannot be read") from error
    except ValueError as error:
        raise WeightsError(f"{file} is damaged: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file} is damaged: not a JSON object")
    return values

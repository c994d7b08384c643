"""Files of repositories on the Hugging Face hub, and what keeps a user from them in one line."""

import errno
from pathlib import Path
from typing import cast

import huggingface_hub
from huggingface_hub import errors

from dreamfusion_jax.diffusion.checkpoints.checkpoint import Volume
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError

_MIRROR = "use a mirror or a folder"
# The first that fits tells what is wrong and what to do.
_CAUSES = (
    (
        errors.GatedRepoError,
        "{repo} is gated: accept its licence on {page} and log in with `hf auth login`, or "
        + _MIRROR,
    ),
    (
        errors.RepositoryNotFoundError,
        "the hub shows no repository {repo}, it may have been removed or renamed: "
        f"{_MIRROR}, or log in with `hf auth login` if it is private",
    ),
    (
        errors.RevisionNotFoundError,
        "{repo} has no revision {revision!r}: its branches and tags are listed on {page}/tree/main",
    ),
    (
        errors.RemoteEntryNotFoundError,
        "{repo} has no {file}: it is not a whole checkpoint in diffusers' layout",
    ),
    (errors.DisabledRepoError, "{repo} was disabled on the hub: " + _MIRROR),
    (
        errors.HfHubHTTPError,
        "the hub answers a request for {repo} with status {status}: log in anew with `hf auth "
        f"login` if this is 401 or 403, else try again later, or {_MIRROR}",
    ),
)
_OFFLINE = (
    "{repo} ({file}) is not in the hub's cache and HF_HUB_OFFLINE forbids to download it: unset "
    f"HF_HUB_OFFLINE, or {_MIRROR}"
)
_UNREACHABLE = (
    "{repo} ({file}) is not in the hub's cache and the hub cannot be reached ({reason}): check the "
    f"network, or {_MIRROR}"
)
_BROKEN = (
    "the download of {repo} ({file}) failed ({reason}): try again, with HF_HUB_DISABLE_XET=1 to "
    "do without the hub's own protocol, or " + _MIRROR
)
_UNWRITABLE = (
    "{repo} ({file}) cannot be written to the hub's cache {cache} ({reason}): make room there, or "
    "set HF_HOME to a folder on another disk"
)
# Of the HTTP library, which is not the same for all versions of the hub's.
_HTTP_ERROR = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
_XET_ERROR = getattr(errors, "XetDownloadError", RuntimeError)  # Since version 2.
_HUB_ERRORS = (
    _HTTP_ERROR,
    errors.LocalEntryNotFoundError,
    # OSError is what network and disk raise; hf_xet, written in Rust, raises RuntimeError.
    OSError,
    RuntimeError,
    _XET_ERROR,
)
_DISK_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError)
_DISK_NUMBERS = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG")
} - {None}


def fetch(repo: str, revision: str | None, file: str) -> Path:
    """A repository's file in the hub's cache, downloaded first if it has to be.

    Raises:
        WeightsError: it cannot be had; says why, and what to do.
    """
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except _HUB_ERRORS as error:
        raise WeightsError(_explain(error, repo, revision, file)) from error


def volume(repo: str, revision: str, file: str) -> Volume:
    """How large a repository's file is, and how much of it has to be downloaded.

    Raises:
        WeightsError: It cannot be known; says why, and what to do.
    """
    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(cached, str):
        return Volume(Path(cached).stat().st_size)
    try:
        found = huggingface_hub.hf_hub_download(repo, file, revision=revision, dry_run=True)
    except _HUB_ERRORS as error:
        raise WeightsError(_explain(error, repo, revision, file)) from error
    size = found.file_size or 0  # The hub need not say.
    return Volume(size, size if found.will_download else 0)


def list_files(repo: str, revision: str, folder: str) -> list[str]:
    """Names of the files in a folder of a repository.

    Raises:
        WeightsError: the repository cannot be read; says why, and what to do.
    """
    try:
        paths = huggingface_hub.list_repo_files(repo, revision=revision)
    except _HUB_ERRORS as error:
        raise WeightsError(_explain(error, repo, revision, folder)) from error
    names = (path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/"))
    return sorted(name for name in names if "/" not in name)


def _explain(error: BaseException, repo: str, revision: str | None, file: str) -> str:
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # Why the hub's cache was looked into.
    text = next((text for kind, text in _CAUSES if isinstance(error, kind)), _other(error))
    return text.format(
        repo=repo,
        page=f"{huggingface_hub.constants.ENDPOINT}/{repo}",
        revision=revision,
        file=file,
        status=getattr(getattr(error, "response", None), "status_code", None),
        cache=huggingface_hub.constants.HF_HUB_CACHE,
        reason=_reason(error),
    )


def _other(error: BaseException) -> str:
    """What to say of an error that is not an answer of the hub."""
    if isinstance(error, _DISK_ERRORS) or getattr(error, "errno", None) in _DISK_NUMBERS:
        return _UNWRITABLE
    network = (_HTTP_ERROR, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    if not isinstance(error, network):
        return _BROKEN
    return _OFFLINE if huggingface_hub.constants.HF_HUB_OFFLINE else _UNREACHABLE


def _reason(error: BaseException) -> str:
    """An error in a few words on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else ""
    if not text and isinstance(error, (RuntimeError, OSError, _XET_ERROR)):
        text = next(iter(str(error).strip().splitlines()), "")[:200]
    name = type(error).__name__
    return f"{name}: {text}" if text else name

"""Local folders, and the hub's own client against a hub that is a function: no network."""

import errno
import importlib
import json
import re
import socket
from dataclasses import dataclass, field

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from dreamfusion_jax.diffusion.checkpoints.checkpoint import Volume
from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError

# httpx or httpx2, as the version of the hub's client has it.
httpx = importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/model"
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}
SUPPORTED = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny")}
STEM = "unet/diffusion_pytorch_model"
FILES = {
    "model_index.json": json.dumps(MODEL_INDEX),
    "README.md": "words",
    "v1-5-pruned.safetensors": "all in one file",
    "unet/config.json": '{"sample_size": 8}',
    "unet/deeper/config.json": "{}",
    f"{STEM}.safetensors": "full",
    f"{STEM}.fp16.safetensors": "half",
    f"{STEM}.non_ema.safetensors": "other",
    f"{STEM}.bin": "pickle",
    "vae/config.json": "{}",
    "vae/diffusion_pytorch_model.bin": "pickle",
    "text_encoder/config.json": "{}",
    "text_encoder/model.safetensors.index.json": '{"weight_map": {"a": "model-1-of-1"}}',
    "text_encoder/model.safetensors.index.fp16.json": json.dumps(
        {"weight_map": {name: f"model.fp16-{name}.safetensors" for name in "ab"}}
    ),
    "text_encoder/model.fp16-a.safetensors": "a",
    "text_encoder/model.fp16-b.safetensors": "b",
    "text_encoder/model-1-of-1": "full",
    "tokenizer/vocab.json": "{}",
    "tokenizer/merges.txt": "",
    "tokenizer/tokenizer.gguf": "unknown",
}


@dataclass
class Hub:
    """Answers as the hub does: files of one commit, or one refusal for everything."""

    files: dict[str, str]
    refusal: tuple[int, dict[str, str]] | None = None
    down: bool = False
    requests: list[str] = field(default_factory=list)

    def __call__(self, request):
        path = request.url.path.lstrip("/")
        self.requests.append(path)
        if self.down:
            raise httpx.ConnectError("no route", request=request)
        if self.refusal:
            return httpx.Response(self.refusal[0], headers=self.refusal[1], request=request)
        if path == f"api/models/{REPO}/tree/{COMMIT}":
            tree = [{"type": "file", "path": p, "size": 1, "oid": p} for p in self.files]
            return httpx.Response(200, json=tree, request=request)
        start, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if start != REPO:
            return self._error(request, 401, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._error(request, 404, "RevisionNotFound")
        if file not in self.files:
            return self._error(request, 404, "EntryNotFound")
        headers = {"ETag": f'"{file.replace("/", "-")}"', "X-Repo-Commit": COMMIT}
        content = self.files[file].encode()
        return httpx.Response(200, headers=headers, content=content, request=request)

    @staticmethod
    def _error(request, status, code):
        return httpx.Response(status, headers={"X-Error-Code": code}, request=request)

    def fetched(self):
        names = {path.split(f"/{COMMIT}/")[-1] for path in self.requests if "/resolve/" in path}
        self.requests.clear()
        return {name.split("/main/")[-1] for name in names}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub.utils import _http

    def no_network(*args, **kwargs):
        raise AssertionError("a test reached for the network")

    hub = Hub(dict(FILES))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    huggingface_hub.set_client_factory(
        lambda: httpx.Client(
            transport=httpx.MockTransport(hub),
            event_hooks={"request": [_http.hf_request_event_hook]},
        )
    )
    yield hub
    huggingface_hub.set_client_factory(_http.default_client_factory)


def names(pipeline, component):
    return {path.name for path in pipeline.files(component)}


def one_line(source, supported=SUPPORTED):
    """The message with which a source is refused."""
    with pytest.raises(WeightsError) as caught:
        open_pipeline(source, supported)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400, message
    return message


@pytest.fixture
def folder(tmp_path):
    for name in ("model_index.json", "unet/config.json", f"{STEM}.safetensors"):
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name])
    return tmp_path / "local"


def test_a_folder(folder, monkeypatch):
    pipeline = open_pipeline(str(folder), SUPPORTED)
    assert pipeline.identity == str(folder)
    assert pipeline.classes["vae"] == "AutoencoderKL"
    assert "safety_checker" not in pipeline.classes
    assert pipeline.config("unet") == {"sample_size": 8}
    assert pipeline.component("unet") == folder / "unet"
    assert names(pipeline, "unet") == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert names(pipeline, "vae") == set()
    with pytest.raises(WeightsError, match="vae does not exist"):
        pipeline.component("vae")
    with pytest.raises(WeightsError, match=r"vae/config.json does not exist"):
        pipeline.config("vae")

    monkeypatch.chdir(folder.parent)
    assert open_pipeline("local", SUPPORTED) == pipeline
    folder.rename(folder.parent / "local@v2")
    assert open_pipeline("local@v2", SUPPORTED).identity.endswith("/local@v2")


def test_folders_that_will_not_do(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    other = {"unet": ("UNet2DModel", "MyUNet")}
    assert "unet is a UNet2DConditionModel; supported: UNet2DModel or MyUNet" in one_line(
        "local", other
    )
    assert "has no prior (PriorTransformer)" in one_line("local", {"prior": ("PriorTransformer",)})
    assert "has no safety_checker (X)" in one_line("local", {"safety_checker": ("X",)})
    assert "local is a folder; a folder has no revisions" in one_line("local@v1")
    assert "is a file; needed is a folder" in one_line("local/model_index.json")
    for name in ("./nowhere", "/nowhere", "~/nowhere/at-all", "a/b/c", "..\\x", "https://x/y"):
        assert f"no such folder: {name}" in one_line(name)
    for name in ("a b/c", "owner/name--x", "name.git@main"):
        assert "is neither a folder nor OWNER/NAME" in one_line(name)
    for text in ("{", "[]", '"\\ud800'):
        (folder / "model_index.json").write_text(text)
        assert "model_index.json is damaged" in one_line("local")
    (folder / "model_index.json").unlink()
    assert "has no model_index.json: not a checkpoint in diffusers' layout" in one_line("local")


def test_only_what_is_needed_is_downloaded(hub):
    pipeline = open_pipeline(REPO, SUPPORTED)
    assert pipeline.identity == f"{REPO}@{COMMIT}"
    assert hub.fetched() == {"model_index.json"}
    assert pipeline.config("unet") == {"sample_size": 8}
    assert hub.fetched() == {"unet/config.json"}

    # One variant of the weights, the smaller one, and nothing that is not read.
    unet = pipeline.component("unet")
    assert hub.fetched() == {f"{STEM}.fp16.safetensors"}
    assert (unet / "diffusion_pytorch_model.fp16.safetensors").read_text() == "half"
    assert pipeline.component("unet") == unet and not hub.requests
    assert pipeline.component("tokenizer") == unet.parent / "tokenizer"
    assert hub.fetched() == {"tokenizer/vocab.json", "tokenizer/merges.txt"}

    pipeline.component("text_encoder")
    assert names(pipeline, "text_encoder") == {
        "config.json",
        "model.safetensors.index.fp16.json",
        "model.fp16-a.safetensors",
        "model.fp16-b.safetensors",
    }
    with pytest.raises(WeightsError, match=r"no vae in .* diffusion_pytorch_model.bin may hold"):
        pipeline.component("vae")


def test_how_large_weights_are_is_known_before_they_are_downloaded(hub, folder):
    pipeline = open_pipeline(REPO, SUPPORTED)
    half = len("half")
    assert pipeline.volume("unet") == Volume(half, missing=half)
    assert not any(".safetensors" in path for path in names(pipeline, "unet"))
    pipeline.component("unet")
    hub.requests.clear()
    assert pipeline.volume("unet") == Volume(half) and not hub.requests
    # Of several shards, one is there.
    huggingface_hub.hf_hub_download(REPO, "text_encoder/model.fp16-a.safetensors")
    assert pipeline.volume("text_encoder") == Volume(2, missing=1)
    assert open_pipeline(str(folder), SUPPORTED).volume("unet") == Volume(len("full"))
    hub.refusal = (503, {})
    with pytest.raises(WeightsError, match="status 503"):
        pipeline.volume("tokenizer")


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (Volume(1_720_000_000), "1.72 GB"),
        (Volume(1_720_000_000, 1_720_000_000), "1.72 GB, to be downloaded"),
        (Volume(2 * 10**9, 5 * 10**8), "2.00 GB, of which 0.50 GB are to be downloaded"),
    ],
)
def test_volumes_in_words(volume, words):
    assert str(volume) == words


def test_revisions(hub):
    assert open_pipeline(f"{REPO}@v1", SUPPORTED).identity == f"{REPO}@{COMMIT}"
    assert open_pipeline(f"{REPO}@{COMMIT}", SUPPORTED).identity == f"{REPO}@{COMMIT}"
    assert f"{REPO} has no revision 'v2'" in one_line(f"{REPO}@v2")


def test_weights_in_the_cache_are_used_as_they_are(hub):
    huggingface_hub.hf_hub_download(REPO, f"{STEM}.safetensors")
    huggingface_hub.hf_hub_download(REPO, "text_encoder/model.safetensors.index.json")
    pipeline = open_pipeline(REPO, SUPPORTED)
    pipeline.component("unet")
    assert names(pipeline, "unet") == {"diffusion_pytorch_model.safetensors"}
    # A download that was stopped goes on with the variant that it was of.
    pipeline.component("text_encoder")
    assert "model-1-of-1" in names(pipeline, "text_encoder")


def test_indices_of_shards_by_their_newer_name(hub):
    folder, name = "text_encoder", "model.fp16.safetensors.index.json"
    hub.files[f"{folder}/{name}"] = hub.files.pop(f"{folder}/model.safetensors.index.fp16.json")
    pipeline = open_pipeline(REPO, SUPPORTED)
    pipeline.component(folder)
    expected = {"config.json", name, *(f"model.fp16-{x}.safetensors" for x in "ab")}
    assert names(pipeline, folder) == expected
    assert pipeline.component(folder) and hub.requests.clear() is None
    hub.files[f"{folder}/{name}"] = "[]"
    file = pipeline.root / folder / name
    file.unlink()
    file.write_text("[]")
    with pytest.raises(WeightsError, match="is damaged: no index"):
        pipeline.component(folder)


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusionXLInpaintPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "FLUX"),
        ("StableDiffusionInpaintPipeline", "an inpainting model"),
        ("StableDiffusionImg2ImgPipeline", "an image-to-image model"),
        ("StableDiffusionControlNetPipeline", "a ControlNet"),
        ("StableDiffusionUpscalePipeline", "an upscaler"),
        ("IFSuperResolutionPipeline", "an upscaler.* stage II of DeepFloyd IF"),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(pipeline, what, folder):
    # Even where every component would do.
    index = MODEL_INDEX | {"_class_name": pipeline}
    (folder / "model_index.json").write_text(json.dumps(index))
    message = one_line(str(folder), {"unet": ("UNet2DConditionModel",)})
    assert re.search(f"is a {pipeline}: {what}", message)


FAILURES = {
    "hf_xet": (
        RuntimeError("Data processing error: CAS service error : Reqwest Error\nmore"),
        r"download of someone/model \(model_index.json\) failed \(RuntimeError: Data processing "
        r"error: CAS service error : Reqwest Error\): try again, with HF_HUB_DISABLE_XET=1",
    ),
    "disk full": (
        OSError(errno.ENOSPC, "No space left on device"),
        r"cannot be written to the hub's cache .*hub \(OSError: No space left on device\)",
    ),
    "not allowed": (
        PermissionError(errno.EACCES, "Permission denied"),
        r"cannot be written .*Permission denied\): make room there, or set HF_HOME",
    ),
    "cut off": (
        OSError("Consistency check failed: file should be of size 9 but has size 4"),
        r"failed \(OSError: Consistency check failed.*: try again",
    ),
    "reset": (ConnectionResetError(104, "reset by peer"), "cannot be reached"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_downloads_that_fail(name, hub, monkeypatch):
    error, expected = FAILURES[name]

    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", download)
    assert re.search(expected, one_line(REPO))


REFUSALS = {
    "absent": ((401, {"X-Error-Code": "RepoNotFound"}), "shows no repository someone/model"),
    "absent, logged in": ((404, {"X-Error-Code": "RepoNotFound"}), "removed or renamed"),
    "gated": (
        (401, {"X-Error-Code": "GatedRepo"}),
        "gated: accept its licence on https://huggingface.co/someone/model and log in with `hf a",
    ),
    "gated, logged in": ((403, {"X-Error-Code": "GatedRepo"}), "is gated: accept its licence"),
    "disabled": (
        (403, {"X-Error-Message": "Access to this resource is disabled."}),
        "was disabled on the hub",
    ),
    "unauthorised": (
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "with status 401: log in anew with `hf auth login`",
    ),
    "forbidden": ((403, {}), "with status 403: log in anew"),
    "no such file": (
        (404, {"X-Error-Code": "EntryNotFound"}),
        "has no model_index.json: it is not a whole checkpoint",
    ),
    "out of order": (
        (503, {}),
        "with status 503: log in anew with `hf auth login` if this is 401 or 403, else try again",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_told_apart(name, hub):
    hub.refusal, expected = REFUSALS[name]
    message = one_line(REPO)
    assert expected in message
    assert name == "no such file" or "use a mirror or a folder" in message


@pytest.mark.parametrize("how", ["down", "HF_HUB_OFFLINE"])
def test_without_network(how, hub, monkeypatch):
    def disconnect(yes):
        if how == "down":
            hub.down = yes
        else:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", yes)

    reason = {"down": "cannot be reached (ConnectError)", "HF_HUB_OFFLINE": "unset HF_HUB_OFFLINE"}
    disconnect(True)
    message = one_line(REPO)
    assert "someone/model (model_index.json) is not in the hub's cache" in message
    assert reason[how] in message

    disconnect(False)
    online = open_pipeline(REPO, SUPPORTED)
    online.component("unet")
    online.component("tokenizer")
    online.config("text_encoder")
    disconnect(True)
    offline = open_pipeline(REPO, SUPPORTED)
    assert offline == online
    assert offline.config("unet") == {"sample_size": 8}
    assert offline.component("unet") == online.component("unet")
    assert offline.component("tokenizer").is_dir()
    for name in ("text_encoder", "vae"):
        with pytest.raises(WeightsError, match=f"{name}.* is not in the hub's cache") as caught:
            offline.component(name)
        assert reason[how] in str(caught.value)
    with pytest.raises(WeightsError, match=r"vae/config.json\) is not in the hub's cache"):
        offline.config("vae")


def test_a_repository_that_is_gone_is_read_from_the_cache(hub):
    first = open_pipeline(REPO, SUPPORTED)
    first.component("unet")
    hub.refusal = REFUSALS["absent"][0]
    second = open_pipeline(REPO, SUPPORTED)
    assert second.component("unet") == first.component("unet")
    with pytest.raises(WeightsError, match="shows no repository"):
        second.component("text_encoder")

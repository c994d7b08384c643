"""The command line with pretrained priors, from folders in diffusers' layout to files."""

import contextlib
import io
import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from helpers.configs import reference_config
from helpers.multi_view import save_mvdream
from helpers.torch_pipelines import save_stable_diffusion
from PIL import Image
from safetensors.numpy import load_file, save_file

from dreamfusion_jax import devices
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.runs import run as run_module
from dreamfusion_jax.runs.settings import RunSettings, from_json, to_json
from experiments import sample
from experiments.run import main
from experiments.run_options import parse, settings_of

PROMPT = "a red car"
TINY = [
    *("--prompt", PROMPT, "--preset", "fast-sd", "--steps", "4", "--train.views", "1"),
    *("--scene.sampling.intervals", "8", "--scene.field.levels", "2"),
    *("--scene.field.coarsest", "4", "--scene.field.finest", "8"),
    *("--output.size", "32", "--output.frames", "2", "--output.mesh-resolution", "16"),
    *("--output.mesh-texture", "16"),
    *("--output.preview-every", "9", "--output.checkpoint-every", "2"),
    *("--train.prompts.views", "none"),
]
FILES = ("config.json", "metrics.csv", "preview.png", "turntable.mp4", "mesh.glb")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    save_stable_diffusion(folder, "1.5")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _run(weights, output, *more):
    main([*TINY, "--weights", str(weights), "--output", str(output), *more])
    return output / "a-red-car-seed0"


def _refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def plain(weights, tmp_path_factory):
    """A finished run, with weights and a cache of its own, and what it said."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(weights, folder / "weights")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run = _run(folder / "weights", folder / "one")
    return SimpleNamespace(folder=folder, run=run, said=said.getvalue())


def test_a_run_writes_every_file_and_says_what_it_reads(plain):
    assert all((plain.run / name).is_file() for name in FILES)
    weights = plain.folder / "weights"
    phases = ("loading the prior", "encoding the prompt")
    phases += (f"encoding 6 texts with {weights}/text_enc",)
    phases += tuple(f"reading {weights}/{part} (0.0" for part in ("unet", "vae"))
    assert _in_order(plain.said.splitlines(), (*phases, "compiling"))


@pytest.mark.slow
def test_resumed_or_made_again_without_the_text_encoder_it_is_the_same(
    plain, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(plain.folder / "cache"))
    first, mine = plain.run, plain.folder / "weights"
    kept = {name: (first / name).read_bytes() for name in ("preview.png", "mesh.glb")}

    shutil.rmtree(first / "checkpoints" / "4")
    (first / "mesh.glb").unlink()
    main(["--resume", str(first)])
    assert {name: (first / name).read_bytes() for name in kept} == kept

    shutil.rmtree(mine / "text_encoder")
    shutil.rmtree(mine / "tokenizer")
    second = _run(mine, tmp_path / "two")
    assert {name: (second / name).read_bytes() for name in kept} == kept

    capsys.readouterr()
    arguments = [*TINY, "--weights", str(mine), "--output", str(tmp_path / "three")]
    line = _refused(capsys, *arguments, "--negative-prompt", "a blue car")
    assert "a blue car" in line and "text_encoder" in line
    assert not (tmp_path / "three").exists()


@pytest.fixture
def full_size(tmp_path):
    """Stable Diffusion 1.5 at its true size, but for the weights, which nobody should read."""
    folder = tmp_path / "full"
    for part in ("unet", "vae", "scheduler"):
        (folder / part).mkdir(parents=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        values = reference_config("stable-diffusion-v1-5", part)
        (folder / part / name).write_text(json.dumps(values))
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    index = {name: ["diffusers", kind] for name, kind in classes.items()}
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    index["_class_name"] = "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_run_of_days_is_refused_before_weights_are_read(full_size, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    arguments = ["--prompt", PROMPT, "--prior", "stable-diffusion", "--weights", str(full_size)]
    arguments += ["--output", str(output), "--steps", "1000000"]
    monkeypatch.setattr(devices, "free_memory", lambda device=None: 2**40)
    count, found = run_module.demand_of, []

    def counted(*asked):
        if not found:  # Once: at this size it takes a while.
            found.append(count(*asked))
        return found[0]

    monkeypatch.setattr(run_module, "demand_of", counted)
    line = _refused(capsys, *arguments)
    assert "days on cpu" in line and "--take-the-time" in line
    # Who insists gets on to what is read next, the text.
    assert "text_encoder" in _refused(capsys, *arguments, "--take-the-time")
    monkeypatch.setattr(devices, "free_memory", lambda device=None: 2**31)
    line = _refused(capsys, *arguments)
    named = ("--preset latent-sd", "--image-size", "--train.views", "2.00 GiB are free")
    assert all(name in line for name in named)
    assert not output.exists()


def test_devices_that_give_up_during_a_step_are_one_line(weights, tmp_path, capsys, monkeypatch):
    def exhausted(*arguments, **settings):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: allocating 8589934592 bytes")

    monkeypatch.setattr(run_module, "train_step", exhausted)
    arguments = [*TINY, "--weights", str(weights), "--output", str(tmp_path / "out")]
    line = _refused(capsys, *arguments)
    assert "8.00 GiB" in line and "--preset latent-sd" in line and "--image-size" in line


def _in_order(lines, starts):
    """Whether there are lines that begin so, one after the other."""
    at = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    return at == sorted(at)


@pytest.mark.slow
def test_a_negative_prompt_steers(plain, weights, tmp_path):
    steered = _run(weights, tmp_path, "--negative-prompt", "a blue car")
    pictures = [np.asarray(Image.open(run / "preview.png")) for run in (plain.run, steered)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    settings = json.loads((steered / "config.json").read_text())["settings"]
    assert settings["negative_prompt"] == "a blue car"


@pytest.mark.slow
def test_latent_scenes_are_decoded_for_looking(weights, tmp_path):
    run = _run(weights, tmp_path, "--preset", "latent-sd")
    assert all((run / name).is_file() for name in FILES)


@pytest.mark.slow
def test_other_sizes_of_renderings(weights, tmp_path):
    run = _run(weights, tmp_path, "--image-size", "80")
    assert json.loads((run / "config.json").read_text())["settings"]["image_size"] == 80


def test_sizes_that_do_not_fit_are_refused(weights, tmp_path, capsys):
    arguments = [*TINY, "--weights", str(weights), "--output", str(tmp_path / "no")]
    assert "640" in _refused(capsys, *arguments, "--image-size", "640")
    line = _refused(capsys, "--prompt", PROMPT, "--image-size", "64", "--output", str(tmp_path))
    assert "--image-size" in line
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_mvdream_from_a_folder_to_files(tmp_path, capsys):
    """Four views a step, larger in the second half; another number of views is refused at once."""
    save_mvdream(tmp_path / "mvdream")
    capsys.readouterr()  # What transformers says as it writes.
    options = [option for option in TINY if option not in ("--train.views", "1")]
    options[options.index("fast-sd")] = "mvdream"
    options += ["--weights", str(tmp_path / "mvdream"), "--train.sizes", "0.5", "72"]
    refused = _refused(capsys, *options, "--train.views", "2", "--output", str(tmp_path / "no"))
    assert "multiple of 4" in refused and "--train.views" in refused
    assert not (tmp_path / "no").exists()
    main([*options, "--output", str(tmp_path)])
    run = tmp_path / "a-red-car-seed0"
    assert all((run / name).is_file() for name in FILES)
    assert (run / "metrics.csv").read_text().splitlines()[-1].startswith("4,")
    words = ["--prior", "mvdream", "--weights", str(tmp_path / "mvdream"), "--prompt", PROMPT]
    words += ["--seeds", "1", "--steps", "2", "--solver", "dpm++"]
    sample.main([*words, "--output", str(tmp_path / "sides.png")])
    with Image.open(tmp_path / "sides.png") as picture:
        assert picture.height >= 4 * 64


def _truncate(folder):
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _reshape(folder):
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"] = tensors["conv_in.bias"][1:]
    save_file(tensors, file, metadata={"format": "pt"})


def _rename_class(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"][1] = "UNet3DConditionModel"
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json"),
        (_truncate, "truncated"),
        (_reshape, "conv_in.bias"),
        (_rename_class, "UNet3DConditionModel"),
        (lambda folder: [f.unlink() for f in (folder / "tokenizer").iterdir()], "tokenizer"),
    ],
    ids=["no index", "truncated", "wrong shape", "foreign class", "no tokenizer files"],
)
def test_damaged_folders_are_refused(damage, named, weights, tmp_path, capsys):
    mine = tmp_path / "weights"
    shutil.copytree(weights, mine)
    damage(mine)
    line = _refused(capsys, *TINY, "--weights", str(mine), "--output", str(tmp_path / "out"))
    assert named in line
    assert not (tmp_path / "out").exists()


def test_without_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for prior in ("stable-diffusion", "deepfloyd"):
        line = _refused(capsys, "--prompt", "a zebra", "--prior", prior, "--output", str(tmp_path))
        assert "HF_HUB_OFFLINE" in line and "--weights" in line
    assert not (tmp_path / "a-zebra-seed0").exists()


def test_latents_are_not_clipped(weights, tmp_path, capsys):
    arguments = [*TINY, "--weights", str(weights), "--output", str(tmp_path / "out")]
    line = _refused(capsys, *arguments, "--train.distillation.clip-denoised", "True")
    assert "--train.distillation.clip-denoised" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def lora(weights, tmp_path_factory):
    """A LoRA of rank 1 for the first matrix of the UNet's cross-attention."""
    stored = load_file(weights / "unet/diffusion_pytorch_model.safetensors")
    name = next(n for n in sorted(stored) if n.endswith("attn2.to_v.weight"))
    out, width = stored[name].shape
    rng, module = np.random.default_rng(0), name.removesuffix(".weight")
    parts = {
        f"unet.{module}.lora.down.weight": rng.normal(size=(1, width)).astype(np.float32),
        f"unet.{module}.lora.up.weight": rng.normal(size=(out, 1)).astype(np.float32),
    }
    file = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_file(parts, file, metadata={"format": "pt"})
    return file


@pytest.mark.slow
def test_loras_change_the_weights_that_they_name(weights, lora):
    def leaves(*loras):
        _, params = load_prior("stable-diffusion", PROMPT, str(weights), loras=loras)
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        return {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in flat}

    plain, merged = leaves(), leaves(f"{lora}:2", f"{lora}:-0.5")
    (changed,) = [name for name in plain if (plain[name] != merged[name]).any()]
    down, up = (
        next(x for n, x in load_file(lora).items() if f".{role}." in n) for role in ("down", "up")
    )
    expected = plain[changed].astype(np.float64) + 1.5 * (up.astype(np.float64) @ down).T
    np.testing.assert_allclose(merged[changed], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--lora", "x.safetensors"], "--lora"),
        (["--prediction-type", "epsilon"], "--prediction-type"),
        (["--tokenizer", "x"], "--tokenizer"),
        (["--prior", "stable-diffusion", "--weights", "x.ckpt"], "x.ckpt may hold code"),
        (["--prior", "stable-diffusion", "--weights", "x.safetensors"], "x.safetensors"),
    ],
)
def test_weights_that_do_not_fit_the_prior_are_refused(options, named, tmp_path, capsys):
    line = _refused(capsys, "--prompt", PROMPT, *options, "--output", str(tmp_path / "out"))
    assert named in line and not (tmp_path / "out").exists()


def test_loras_are_kept_in_the_settings_and_refused_where_they_do_not_fit(
    weights, lora, tmp_path, capsys
):
    arguments = [*TINY, "--weights", str(weights), "--output", str(tmp_path / "out")]
    other = tmp_path / "loha.safetensors"
    save_file({"lora_unet_conv_in.hada_w1_a": np.ones((2, 2), np.float32)}, other)
    assert "LoHa" in _refused(capsys, *arguments, "--lora", str(other))
    assert not (tmp_path / "out").exists()
    asked = settings_of(parse([*arguments, "--lora", f"{lora}:0.5"]))
    kept = json.loads(json.dumps(to_json(asked)))
    assert kept["loras"] == [f"{lora}:0.5"]
    assert from_json(kept, RunSettings) == asked


@pytest.mark.slow
def test_samples_in_two_dimensions(weights, tmp_path):
    arguments = sample.Arguments(
        prompt=PROMPT,
        negative_prompt="a blue car",
        prior="stable-diffusion",
        weights=str(weights),
        views="none",
        seeds=1,
        steps=2,
        solver="dpm++",
        output=tmp_path / "car.png",
    )
    with Image.open(sample.draw(arguments)) as picture:
        assert picture.height >= 80

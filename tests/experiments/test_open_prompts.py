"""The command line with pretrained priors, from folders in diffusers' layout to files."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
from helpers.torch_pipelines import save_stable_diffusion
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments import sample
from experiments.run import main

PROMPT = "a red car"
TINY = [
    *("--prompt", PROMPT, "--preset", "fast-sd", "--steps", "4", "--train.views", "1"),
    *("--scene.sampling.intervals", "8", "--scene.field.grid.resolutions", "4", "8"),
    *("--output.size", "24", "--output.frames", "2", "--output.mesh-resolution", "16"),
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


def test_run_resume_and_a_second_run_without_text_encoder(weights, tmp_path, capsys):
    mine = tmp_path / "weights"
    shutil.copytree(weights, mine)
    first = _run(mine, tmp_path / "one")
    assert all((first / name).is_file() for name in FILES)
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


def test_a_negative_prompt_steers(weights, tmp_path):
    plain = _run(weights, tmp_path / "plain")
    steered = _run(weights, tmp_path / "steered", "--negative-prompt", "a blue car")
    pictures = [np.asarray(Image.open(run / "preview.png")) for run in (plain, steered)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    settings = json.loads((steered / "config.json").read_text())["settings"]
    assert settings["negative_prompt"] == "a blue car"


def test_latent_scenes_are_decoded_for_looking(weights, tmp_path):
    run = _run(weights, tmp_path, "--preset", "latent-sd")
    assert all((run / name).is_file() for name in FILES)


def test_other_sizes_of_renderings(weights, tmp_path, capsys):
    run = _run(weights, tmp_path / "larger", "--image-size", "80")
    assert json.loads((run / "config.json").read_text())["settings"]["image_size"] == 80
    arguments = [*TINY, "--weights", str(weights), "--output", str(tmp_path / "no")]
    assert "640" in _refused(capsys, *arguments, "--image-size", "640")
    line = _refused(capsys, "--prompt", PROMPT, "--image-size", "64", "--output", str(tmp_path))
    assert "--image-size" in line
    assert not (tmp_path / "no").exists()


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


def test_samples_in_two_dimensions(weights, tmp_path):
    arguments = sample.Arguments(
        prompt=PROMPT,
        negative_prompt="a blue car",
        prior="stable-diffusion",
        weights=str(weights),
        views="none",
        seeds=1,
        steps=2,
        output=tmp_path / "car.png",
    )
    with Image.open(sample.draw(arguments)) as picture:
        assert picture.height >= 80

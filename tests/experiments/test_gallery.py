"""The gallery's command, and the command that makes a run again."""

import shlex

import pytest
from helpers.programs import command
from helpers.small_scenes import written_run

from dreamfusion_jax import presets
from dreamfusion_jax.runs.settings import RunSettings
from experiments.again import PROGRAM, command_of
from experiments.gallery import main
from experiments.run_options import parse, settings_of

LINES = [
    [],
    ["--steps", "60", "--seed", "3"],
    ["--preset", "quality", "--train.views", "2", "--train.distillation.clip-denoised", "False"],
    ["--field", "mlp", "--output.size", "64"],
    ["--prior", "oracle", "--train.cameras.elevation", "-5", "40"],
    ["--prior", "stable-diffusion", "--weights", "some/where", "--negative-prompt", "it's ugly"],
    ["--preset", "fast-sd", "--train.sizes", "0.25", "128", "0.5", "256"],
    ["--preset", "fast-if", "--train.distillation.residual-limit", "2.0"],
    ["--field", "hash", "--train.prompts.views", "perp-neg"],
    ["--preset", "paper", "--scene.sampling.proposals", "32", "16"],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_the_command_asks_for_the_same_settings(line):
    settings = settings_of(parse(["--prompt", "a red <i>ball</i>; 'quoted'", *line]))
    command = command_of(settings)
    assert command is not None
    words = shlex.split(command)
    assert tuple(words[:3]) == PROGRAM
    assert settings_of(parse(words[3:])) == settings
    assert len(words) <= 3 + 4 + len(line)


def test_settings_beyond_the_options_have_no_command():
    config = presets.preset("fast-sd").config
    odd = presets.changed(config, {"train.optimizer": presets.PAPER.train.optimizer})
    assert (
        command_of(RunSettings("a ball", odd, prior="stable-diffusion", preset="fast-sd")) is None
    )
    assert command_of(RunSettings("a ball", config, preset="")) is None


def test_the_command_writes_the_pages(tmp_path):
    folder = written_run(tmp_path / "out" / "run")
    result = command("gallery", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"page: {tmp_path / 'out' / 'index.html'}"
    assert "experiments.run --prompt &#39;a ball&#39;" in (folder / "index.html").read_text()


@pytest.mark.parametrize("what", ["empty", "missing", "damaged"])
def test_bad_input_is_one_line(what, tmp_path, capsys):
    folder = tmp_path / what
    if what != "missing":
        folder.mkdir()
    if what == "damaged":
        (folder / "config.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        main([str(folder)])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and str(folder) in error[0]

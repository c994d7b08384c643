"""The benchmark by its real command, at its smallest setting."""

import json

import pytest
from helpers.programs import command, refused

from experiments.benchmark import main


@pytest.mark.slow
def test_the_prior_and_its_peers_are_timed(tmp_path):
    file = tmp_path / "benchmark.json"
    result = command(
        *("benchmark", "--parts", "prior", "--views", "1", "--seconds", "0.01", "--small"),
        *("--compare", "torch", "--output", file),
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert {"product, float32", "product, bfloat16", "copy"} < {*rows}
    unet = rows["toybox: UNet with guidance, 1 views"]
    assert unet["flops"] > 1e8 and unet["seconds"] > 0
    best = rows["product, float32"]["flops_per_second"], rows["copy"]["bytes_per_second"]
    shares = unet["flops_per_second"] / best[0], unet["bytes_per_second"] / best[1]
    assert unet["share"] == pytest.approx(max(shares))
    # What is compared is the same thing: PyTorch gives the same numbers.
    assert len(report["compared"]) == 3
    assert all(row["difference"] < 1e-4 for row in report["compared"])
    assert all(len(row["ratios"]) >= 3 for row in report["compared"])
    assert "of the nearest ceiling" in result.stdout and "PyTorch / here" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--presets", "fast"], "--presets"),
        (["--seconds", "0"], "--seconds"),
        (["--parts", "wings"], "--parts"),
        (["--prompt", "a red zebra"], "zebra"),
        (["--presets", "fast-sd", "--weights", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_named_in_one_line(arguments, named, capsys, tmp_path):
    line = refused(main, capsys, *arguments, "--output", tmp_path / "x.json")
    assert named in line and not (tmp_path / "x.json").exists()

"""The benchmark by its real command, at its smallest setting."""

import json

import pytest
from helpers.programs import command, refused
from helpers.torch_pipelines import save_stable_diffusion

from dreamfusion_jax import presets
from dreamfusion_jax.benchmark.components import Setting
from dreamfusion_jax.priors.loading import load_prior
from experiments.benchmark import main


@pytest.mark.slow
def test_the_prior_and_its_peers_are_timed(tmp_path):
    file = tmp_path / "benchmark.json"
    result = command(
        *("benchmark", "--parts", "prior", "--views", "1", "--seconds", "0.01", "--small"),
        *("--compare", "torch-eager", "--output", file),
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
    for row in report["compared"]:
        assert row["difference"] < (0.1 if "bfloat16" in row["name"] else 1e-4)
        assert len(row["ratios"]) >= 3
    assert "of the nearest ceiling" in result.stdout and "PyTorch / here" in result.stdout


@pytest.mark.slow
def test_stable_diffusions_networks_are_those_of_diffusers(tmp_path):
    """With random weights of small configurations; PyTorch gives the same numbers."""
    from experiments.torch_networks import compare_networks, fastest_type

    save_stable_diffusion(tmp_path, "1.5")
    prior, params = load_prior("stable-diffusion", "a car", str(tmp_path))
    setting = Setting(presets.preset("fast-sd"), prior, params, "a car")
    rows = [*compare_networks(setting, tmp_path, 0.01, compiled=False)]
    assert [row.name.split(": ")[1] for row in rows] == [
        f"{what}, float32 against eager {str(fastest_type()).removeprefix('torch.')}"
        for what in ("UNet, batch 2", "image encoder there and back, 1 views")
    ]
    assert all(row.difference < (1e-4 if "eager float32" in row.name else 0.2) for row in rows)


def test_fields_without_a_peer_are_told_from_those_with_one():
    from experiments.torch_peers import renders

    rendered = {one.name for one in presets.PRESETS if renders(one.config.scene.field)}
    assert rendered == {"toybox", "quality"}


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

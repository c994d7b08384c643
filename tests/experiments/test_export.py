"""Export, and measuring of meshes, from the command line: a tiny toy of few numbers."""

import re

import numpy as np
import pytest
import trimesh
from helpers.programs import command, refused
from helpers.toys import toy

from experiments.export import main
from experiments.measure_mesh import main as measure

SMALL = ("--resolution", "32", "--faces", "400", "--texture", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    toy().save(folder / "toy.safetensors")
    toy(-30.0).save(folder / "empty.safetensors")
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    formats = ("--format", "glb", "obj", "ply", "stl", "--millimetres", "50")
    result = command(
        "export", folder / "toy.safetensors", *SMALL, *formats, "--output", folder / "out"
    )
    assert result.returncode == 0, result.stderr
    return folder / "out", result.stdout


def test_every_format_is_written_and_the_choice_reported(exported):
    out, said = exported
    agreement = re.search(r"agree with the rendered opacity by ([0-9.]+) \(IoU\)", said)
    assert agreement and 0.95 < float(agreement[1]) <= 1.0
    names = ["glb", "mtl", "obj", "ply", "png", "stl"]
    assert sorted(p.name for p in out.iterdir()) == [f"object.{name}" for name in names]
    assert trimesh.load_mesh(out / "object.stl").extents.max() == pytest.approx(50, rel=1e-5)
    assert 300 < len(trimesh.load_mesh(out / "object.glb").faces) <= 400


def test_the_mesh_looks_like_its_field(folder, exported, capsys):
    out, _ = exported
    arguments = (folder / "toy.safetensors", "--mesh", out / "object.glb", "--size", "32")
    measure([str(argument) for argument in arguments])
    cells = capsys.readouterr().out.strip().splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == "a red apple"
    psnr, overlap, f_score = float(cells[2]), float(cells[4]), float(cells[6])
    assert psnr >= 24 and overlap >= 0.95
    assert 0 <= f_score <= 1


def test_vertex_colours_are_the_other_way(folder, tmp_path):
    main(
        [
            *(str(folder / "toy.safetensors"), *SMALL, "--output", str(tmp_path)),
            *("--texture", "0", "--name", "a"),
        ]
    )
    loaded = trimesh.load_mesh(tmp_path / "a.glb", skip_materials=True)
    assert np.ptp(loaded.visual.vertex_colors[:, :3], axis=0).min() > 20


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["empty.safetensors"], "half opaque"),
        (["nowhere"], "nowhere"),
        (["toy.safetensors", "--format", "fbx"], "fbx"),
        (["toy.safetensors", "--millimetres", "0"], "--millimetres"),
        (["toy.safetensors", "--threshold", "-1"], "--threshold"),
        (["toy.safetensors", "--threshold", "1e9"], "largest density"),
        (["toy.safetensors", "--texture", "-5"], "--texture"),
        (["toy.safetensors", "--resolution", "1"], "--resolution"),
    ],
)
def test_bad_input_is_named_in_one_line(folder, tmp_path, capsys, arguments, named):
    run, *options = arguments
    options += ["--output", str(tmp_path / "out")]
    assert named in refused(main, capsys, folder / run, *options)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_damaged_run_is_named_in_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert str(tmp_path) in refused(main, capsys, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["toy.safetensors", "--mesh", "none.glb"], "none.glb"), (["nowhere"], "nowhere")],
)
def test_measuring_names_what_is_missing(folder, capsys, arguments, named):
    run, *options = arguments
    assert named in refused(measure, capsys, folder / run, *options)

"""What README and the package say of the library is run, at a smaller size."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import trimesh

import dreamfusion_jax as df
from dreamfusion_jax import presets

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_the_readme_go_from_a_prompt_to_turntable_and_mesh(tmp_path, monkeypatch):
    code = re.findall("```python\n(.*?)```", README, re.DOTALL)[0]
    for large, small in (
        ("orbit(48", "orbit(2"),
        ("size=128", "size=16"),
        ("=96", "=16, texture=16"),
    ):
        assert large in code
        code = code.replace(large, small)
    config = presets.changed(
        presets.TOYBOX,
        {"train.steps": 6, "train.views": 1, "scene.sampling.intervals": 8},
    )
    tiny = dataclasses.replace(presets.preset("toybox"), prior="oracle", config=config)
    monkeypatch.setattr(presets, "PRESETS", (tiny,))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["looks"].colour.shape == (2, 16, 16, 3)
    assert (tmp_path / "mushroom.mp4").stat().st_size > 500
    assert len(trimesh.load(tmp_path / "mushroom.glb", force="mesh").faces) > 0
    assert df.TrainedScene.load("mushroom.safetensors").about["prompt"] == "a red mushroom"


def test_the_package_says_the_same_as_the_readme():
    assert df.__doc__ is not None
    lines = [line.strip() for line in df.__doc__.splitlines() if line.startswith("    ")]
    assert len(lines) == 8 and all(line in README for line in lines)


def test_every_name_of_the_package_can_be_had_and_the_import_is_light():
    for name in df.__all__:
        assert getattr(df, name) is not None
    program = (
        "import dreamfusion_jax, sys; print('jax' in sys.modules, dreamfusion_jax.__version__)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said == ["False", df.__version__]

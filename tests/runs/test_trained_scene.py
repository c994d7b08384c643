"""A trained scene in one file, and from a run's folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax.export.mesh import MeshConfig
from dreamfusion_jax.presets import TOYBOX, changed
from dreamfusion_jax.runs.checkpoint import CheckpointError
from dreamfusion_jax.runs.run import Run, load_finished
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import orbit
from dreamfusion_jax.scene.lighting import Lighting, plain_albedo

CAMERAS = orbit(2, 0.3, 1.3, 1.1)
COARSE = MeshConfig(resolution=12, texture=16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    short = changed(SETTINGS.config, {"train.steps": 3})
    with Run.start(folder, dataclasses.replace(SETTINGS, config=short), PRIOR) as run:
        scene = run.train()
    return folder, scene


def assert_same(a, b):
    assert a.model == b.model
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(
        jax.tree.leaves(a.look(CAMERAS, size=8)),
        jax.tree.leaves(b.look(CAMERAS, size=8)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_a_folder_and_a_file_give_the_scene_back(finished, tmp_path):
    folder, scene = finished
    loaded = TrainedScene.load(folder)
    assert_same(loaded, scene)
    assert loaded.about["prompt"] == "a grey thing"
    file = tmp_path / "scene.safetensors"
    loaded.save(file)
    again = TrainedScene.load(file)
    assert_same(again, scene)
    assert again.about == loaded.about
    assert file.stat().st_size < 30_000
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode  # Others may read it, too.
    mesh, same = scene.mesh(COARSE), again.mesh(COARSE)
    np.testing.assert_array_equal(mesh.vertices, same.vertices)
    assert load_finished(folder)[0].seed == 3


def test_light_can_be_chosen(finished):
    _, scene = finished
    dark = dataclasses.replace(plain_albedo(), ambient=jnp.float32(0.5))
    both = jax.tree.map(lambda x: jnp.stack([x, x]), dark)
    looks = scene.look(CAMERAS, Lighting(**vars(both)), size=8, backdrop=0.0)
    # Half of the light on the same surface is half of the colour, over black.
    np.testing.assert_allclose(looks.shaded, 0.5 * looks.colour, atol=1e-6)


def test_what_is_no_scene_is_named(finished, tmp_path):
    _, scene = finished
    with pytest.raises(ValueError, match=r"not as '\.npz'"):
        scene.save(tmp_path / "scene.npz")
    with pytest.raises(CheckpointError, match="there is no file"):
        TrainedScene.load(tmp_path / "scene.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        TrainedScene.load(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="there is no folder"):
        TrainedScene.load(tmp_path / "nowhere")
    other = dataclasses.replace(scene, model=TOYBOX.scene)
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        TrainedScene.load(tmp_path / "other.safetensors")


def test_an_unfinished_run_is_no_finished_one(finished, tmp_path):
    folder, _ = finished
    config = (folder / "config.json").read_text().replace('"steps": 3', '"steps": 30')
    longer = tmp_path / "longer"
    longer.mkdir()
    (longer / "config.json").write_text(config)
    (longer / "checkpoints").symlink_to(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="is at step 3 of 30"):
        load_finished(longer)

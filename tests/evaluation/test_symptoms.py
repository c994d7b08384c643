"""Symptoms by closed forms, on scenes whose faults are known, and in the program that trains."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.programs import command
from helpers.tiny import SCHEDULE, Cloud, Fog, fresh, scene
from helpers.tiny_run import CONFIG_OF_RUN, PRIOR, SETTINGS

from dreamfusion_jax.evaluation.calibration import Finding, calibrate, examine_truth
from dreamfusion_jax.evaluation.symptoms import (
    THRESHOLDS,
    Symptoms,
    away,
    badness,
    complaints,
    examine,
    examine_faces,
    face_margin,
    shape_symptoms,
)
from dreamfusion_jax.evaluation.watching import SYMPTOMS, Watcher, best
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.toybox.world import Scene
from experiments import run as run_program

WELL = Symptoms(emptiness=0.8, fog=0.1, flatness=0.3, faces=-0.1)


def _trained(field) -> TrainedScene:
    model = scene(field)
    return TrainedScene(model, fresh(model), jnp.zeros(()))


def test_shape_symptoms_by_hand() -> None:
    opacity = np.zeros((8, 10, 10))
    opacity[:, 3:7, 3:7] = 1.0
    opacity[2, 3:7, 3:7] = 0.5
    found = shape_symptoms(opacity)
    assert found.emptiness == pytest.approx(1 - (7 * 16 + 8) / 800)
    assert found.fog == pytest.approx(16 * 0.25 / 120)
    assert found.flatness == pytest.approx(0.5)
    assert shape_symptoms(np.zeros((8, 4, 4))).emptiness == 1.0
    edge = np.zeros((1, 3, 3))
    edge[0, 0, 0] = 1.0  # One of eight pixels along the edge.
    assert shape_symptoms(edge).fog == pytest.approx(1 / 8)


def test_a_ball_is_well_and_fog_and_nothing_are_not() -> None:
    ball = complaints(examine(_trained(Cloud(density=3000.0, width=0.12))))
    fog = complaints(examine(_trained(Fog(density=0.5))))
    nothing = complaints(examine(_trained(Fog(density=1e-4))))
    assert set(ball) == set()
    assert "fog" in fog and "the scene is fog" in fog["fog"]
    assert "emptiness" in nothing


@dataclasses.dataclass(frozen=True, eq=False)
class WordsPrior(GaussianPrior):
    """Knows what is bright from the front and dark elsewhere: its text is the mean picture."""

    def encode_text(self, params, prompts):
        bright = ["front view" in prompt for prompt in prompts]
        return jnp.where(jnp.array(bright), 0.8, -0.8)[:, None, None]


def test_the_margin_is_that_of_exact_predictions() -> None:
    """eps_hat - eps = alpha (x - mean) / sigma exactly, of a prior without spread."""
    prior = WordsPrior(SCHEDULE, image_size=4)
    dark, bright = (np.full((5, 4, 4, 3), value, np.float32) for value in (0.1, 0.9))
    # Their own words explain dark pictures without error, the front's would be 1.6 away.
    assert face_margin(prior, None, dark, "a thing") == pytest.approx(-2.0, abs=1e-3)
    assert face_margin(prior, None, bright, "a thing") == pytest.approx(2.0, abs=1e-3)
    grey = np.full((5, 4, 4, 3), 0.5, np.float32)
    assert face_margin(prior, None, grey, "a thing") == pytest.approx(0.0, abs=1e-3)
    # One of three views of the back is enough to be seen, two sides of one are more.
    mixed = dark.copy()
    mixed[3] = 0.9
    assert face_margin(prior, None, mixed, "a thing") == pytest.approx(-2 / 3, abs=1e-3)


def test_cameras_away_from_the_front_look_at_the_middle() -> None:
    cameras = away()
    towards = -np.asarray(cameras.rotation)[..., 2]
    position = np.asarray(cameras.position)
    np.testing.assert_allclose(towards * 1.3, -position, atol=1e-5)
    angles = np.degrees(np.asarray(cameras.azimuth)) % 360
    np.testing.assert_allclose(angles, [90, 270, 150, 180, 210], atol=1e-3)


def test_scenes_of_latents_have_no_faces_to_show() -> None:
    model = scene(Fog(colour=(0.1, 0.2, 0.3, 0.4)), EnvironmentMap())
    latent = TrainedScene(model, fresh(model), jnp.zeros(()))
    assert examine_faces(latent, GaussianPrior(SCHEDULE, image_size=4), None, "a thing") is None


@pytest.fixture(scope="module")
def duck() -> list[Finding]:
    return examine_truth(Scene("duck", "yellow"), *toybox.load())


def test_the_embedded_prior_tells_a_duck_from_one_that_has_a_face_behind(
    duck: list[Finding],
) -> None:
    found = {finding.group: finding.symptoms for finding in duck}
    faces = [found[group].faces for group in ("truth", "several faces")]
    assert faces[0] is not None and faces[1] is not None
    assert faces[0] < faces[1]
    for group, name in (("fog", "fog"), ("flat", "flatness"), ("empty", "emptiness")):
        assert name in complaints(found[group])
    assert not {"fog", "flatness", "emptiness"} & set(complaints(found["truth"]))


def test_calibration_counts() -> None:
    findings = [
        Finding("truth", str(i), dataclasses.replace(WELL, faces=i / 100)) for i in range(101)
    ]
    findings += [
        Finding("several faces", "x", dataclasses.replace(WELL, faces=value))
        for value in (0.0, 1.0)
    ]
    findings.append(Finding("fog", "x", dataclasses.replace(WELL, faces=None)))
    result = calibrate(findings, dataclasses.replace(THRESHOLDS, faces=0.905))
    faces = {line.symptom: line for line in result.lines}["faces"]
    assert faces.suggested == pytest.approx(0.98)
    assert faces.called_faulty["truth"] == pytest.approx(10 / 101)
    assert faces.called_faulty["several faces"] == 0.5
    assert faces.counts == {"truth": 101, "several faces": 2}
    assert "several faces 50% of 2" in result.table()


def test_the_best_seed_has_the_fewest_complaints_then_the_least_of_everything() -> None:
    foggy = dataclasses.replace(WELL, fog=0.9)
    nearly = dataclasses.replace(WELL, fog=THRESHOLDS.fog * 0.99)
    order = [WELL, nearly, foggy, dataclasses.replace(foggy, flatness=1.0)]
    assert sorted(order, key=badness) == order
    folders = {Path(str(i)): found for i, found in enumerate(reversed(order))}
    assert best(folders) == Path("3")


@pytest.mark.slow
def test_a_run_is_watched_and_warns_once(tmp_path: Path) -> None:
    thin = dataclasses.replace(
        CONFIG_OF_RUN, train=dataclasses.replace(CONFIG_OF_RUN.train, steps=8)
    )
    said = []
    with Run.start(tmp_path / "run", dataclasses.replace(SETTINGS, config=thin), PRIOR) as run:
        watcher = Watcher(run, said.append)
        scene_now = run.train([watcher])
        before = list(said)
        found = watcher.finish(scene_now)
    # After a few steps a scene is still thin everywhere.
    assert any("fog" in line for line in before)
    assert len(said) == len({line.split(": ")[1] for line in said})
    stored = json.loads((tmp_path / "run" / SYMPTOMS).read_text())
    assert stored["symptoms"] == dataclasses.asdict(found)
    assert set(stored["complaints"]) == set(complaints(found))


@pytest.mark.slow
def test_retries_start_again_with_the_next_seed_and_name_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds come out empty, a third is well."""
    outcomes = iter([dataclasses.replace(WELL, emptiness=1.0)] * 2 + [WELL])
    monkeypatch.setattr("dreamfusion_jax.evaluation.watching.examine", lambda _: next(outcomes))
    monkeypatch.setattr("dreamfusion_jax.evaluation.watching.examine_faces", lambda *_: WELL.faces)
    written = []
    monkeypatch.setattr(Run, "write_results", lambda run, _: written.append(run.folder.name))
    command = "--prompt|a red car|--prior|oracle|--steps|1|--train.views|1|--retries|4"
    command += "|--scene.sampling.intervals|8|--compilation-cache|False|--output"
    run_program.main([*command.split("|"), str(tmp_path)])
    folders = sorted(folder.name for folder in tmp_path.iterdir())
    assert folders == [f"a-red-car-seed{seed}" for seed in range(3)]
    assert written == ["a-red-car-seed2"]
    assert f"best of 3: {tmp_path / 'a-red-car-seed2'}" in capsys.readouterr().out


@pytest.mark.slow
def test_symptoms_are_calibrated_from_the_command_line(tmp_path: Path) -> None:
    options = ["--categories", "duck", "--colours", "yellow", "--output", tmp_path]
    result = command("calibrate_symptoms", *options)
    assert result.returncode == 0, result.stderr
    numbers = json.loads((tmp_path / "symptoms.json").read_text())
    assert [line["symptom"] for line in numbers["lines"]] == [
        field.name for field in dataclasses.fields(Symptoms)
    ]
    assert (tmp_path / "table.md").read_text() in result.stdout

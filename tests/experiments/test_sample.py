"""The program that draws pictures, with a prior that takes no time."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE
from PIL import Image

from dreamfusion_jax.devices import OutOfMemoryError
from dreamfusion_jax.distillation import demand
from dreamfusion_jax.priors.opened import OpenedPrior
from dreamfusion_jax.priors.prior import Condition, GaussianPrior
from experiments import sample as program


@dataclasses.dataclass(frozen=True, eq=False)
class Layers(GaussianPrior):
    """Has something to multiply."""

    def predict_eps(self, params, z, t, embedding):
        return super().predict_eps(None, z, t, embedding) + 0.0 * (z @ params)


OPENED = OpenedPrior.whole(Layers(SCHEDULE, 0.3, image_size=8), jnp.eye(3))


@pytest.fixture
def asked(monkeypatch):
    """What the sampler is asked for; the prior is the one above, whatever its name."""
    calls, inner = [], program.sample

    def draw(*arguments, **options):
        calls.append(options)
        return inner(*arguments, **options)

    monkeypatch.setattr(program, "open_prior", lambda *arguments, **options: OPENED)
    monkeypatch.setattr(program, "sample", draw)
    return calls


@pytest.mark.parametrize(
    ("prior", "weight"), [("toybox", 3.0), ("stable-diffusion", 6.5), ("deepfloyd", 6.0)]
)
def test_each_prior_has_its_usual_guidance(prior, weight, asked, tmp_path):
    output = str(tmp_path / "x.png")
    program.main(["--prior", prior, "--seeds", "2", "--steps", "3", "--output", output])
    assert [call["guidance_weight"] for call in asked] == [weight, weight]
    program.main(["--guidance-weight", "1.5", "--seeds", "1", "--steps", "2", "--output", output])
    assert asked[-1]["guidance_weight"] == 1.5
    with Image.open(output) as picture:
        assert picture.height > 4 * 8


def test_progress_is_said_and_the_fast_solver_takes_fewer_steps(asked, tmp_path, capsys):
    output = str(tmp_path / "x.png")
    program.main(["--solver", "dpm++", "--seeds", "2", "--together", "3", "--output", output])
    assert [call["steps"] for call in asked] == [20, 20]
    # Two seeds, four views by threes, twenty steps.
    assert "step 80 of 80" in capsys.readouterr().out
    program.main(["--seeds", "1", "--views", "none", "--output", output])
    assert asked[-1]["steps"] == 50


def test_without_room_for_all_pictures_they_are_drawn_one_by_one(
    asked, tmp_path, capsys, monkeypatch
):
    draw = program.sample

    def short(*arguments, **options):
        if options["together"] != 1:
            raise OutOfMemoryError("no memory for pictures")
        return draw(*arguments, **options)

    monkeypatch.setattr(program, "sample", short)
    files = [tmp_path / name for name in ("whole.png", "parts.png")]
    program.main(["--seeds", "2", "--steps", "3", "--output", str(files[1])])
    assert "one picture at a time" in capsys.readouterr().out
    assert [call["together"] for call in asked] == [1, 1]
    monkeypatch.setattr(program, "sample", draw)
    program.main(["--seeds", "2", "--steps", "3", "--output", str(files[0])])
    whole, parts = (np.asarray(Image.open(file), int) for file in files)
    assert np.abs(whole - parts).max() <= 1
    monkeypatch.setattr(program, "sample", short)
    with pytest.raises(SystemExit) as stop:
        program.main(["--views", "none", "--seeds", "1", "--output", str(files[0])])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no memory for pictures")


def test_long_waits_are_announced(asked, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demand, "_SLOWEST", 1e-9)
    monkeypatch.setattr(demand, "product_rate", lambda dtype: 10.0)
    program.main(["--seeds", "1", "--steps", "2", "--output", str(tmp_path / "x.png")])
    # Two steps of both texts of four views: 64 pixels by a matrix of 3 x 3.
    seconds = 2 * 2 * 4 * 64 * 2 * 9 / 10
    assert f"at least {seconds / 60:,.0f} minutes on cpu" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--seeds", "--steps", "--together"])
def test_numbers_that_make_no_sense_are_refused(option, asked, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main([option, "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {option} must be at least 1, not 0\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Sides(Layers):
    """Takes every picture to be of one colour: red and green tell where its camera stands."""

    group: int = 4

    def condition(self, text, view, config):
        return Condition(*[view.camera.position[:, None, None] / view.camera.distance[0]] * 2)


def test_a_prior_of_several_sides_draws_those_of_one_object(asked, tmp_path, capsys, monkeypatch):
    """From azimuths 0, 90, 180 and 270 degrees at 15 degrees of elevation, by fours."""
    sides = OpenedPrior.whole(Sides(SCHEDULE, 0.0, image_size=8), jnp.zeros((3, 3)))
    monkeypatch.setattr(program, "open_prior", lambda *arguments, **options: sides)
    output, found = tmp_path / "x.png", []
    draw = program.sample
    monkeypatch.setattr(program, "sample", lambda *x, **y: found.append(draw(*x, **y)) or found[-1])
    options = ["--prior", "mvdream", "--seeds", "1", "--steps", "2", "--output", str(output)]
    program.main([*options, "--together", "4"])
    assert asked[0]["guidance_weight"] == 6.5
    azimuth, level = np.deg2rad([0, 90, 180, 270]), np.cos(np.deg2rad(15))
    place = [level * np.cos(azimuth), level * np.sin(azimuth), np.full(4, np.sin(np.deg2rad(15)))]
    expected = np.broadcast_to(0.5 + 0.5 * np.stack(place, -1)[:, None, None], (4, 8, 8, 3))
    np.testing.assert_allclose(found[0], expected, atol=1e-3)
    with Image.open(output) as picture:
        assert picture.height > 4 * 8
    capsys.readouterr()
    with pytest.raises(SystemExit):
        program.main([*options, "--together", "3"])
    assert capsys.readouterr().err == "error: --together must be a multiple of 4, not 3\n"

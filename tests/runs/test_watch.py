"""The figure of progress against a prior whose every answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE
from helpers.tiny_run import PRIOR, SETTINGS
from PIL import Image

from dreamfusion_jax.distillation.showing import pictures
from dreamfusion_jax.distillation.train import Model, init_state
from dreamfusion_jax.priors.prior import encode_prompts
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.metrics import read_table
from dreamfusion_jax.runs.watch import TIMES, Watch

SIZE = 8
CONFIG = SETTINGS.config


def watch(folder, first=0):
    prior, params = PRIOR
    text = encode_prompts(prior, params, SETTINGS.prompt, CONFIG.train.prompts)
    return Watch(
        folder,
        first,
        10,
        model=Model(CONFIG.scene, prior),
        config=CONFIG.train,
        prior_params=params,
        text=text,
    )


def moment(step, shift=0.0):
    state = init_state(Model(CONFIG.scene, PRIOR[0]), CONFIG.train, 0)
    field = jax.tree.map(lambda x: x + jnp.float32(shift), state.params["field"])
    state = type(state)(
        jnp.asarray(step, jnp.int32),
        state.seed,
        {**state.params, "field": field},
        state.optimizer,
        state.distillation,
    )
    return Moment(step, CONFIG.train.steps, lambda: state, {})


def rows_of(path):
    """Views, noised fronts and answers in a kept picture, [3, SIZE, 4 SIZE, 3] in [0, 1]."""
    with Image.open(path) as picture:
        return np.asarray(picture, np.float64).reshape(3, SIZE, 4 * SIZE, 3) / 255


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    watcher = watch(folder)
    for step, shift in ((1, 0.0), (7, 0.3), (10, 0.5), (20, 0.5)):
        watcher(moment(step, shift))
    return folder


def test_there_are_rows_and_pictures_where_they_are_due(watched):
    assert read_table(watched / "progress.csv")["step"] == [1.0, 10.0, 20.0]
    assert sorted(path.name for path in (watched / "shown").iterdir()) == [
        *("000001.png", "000010.png", "000020.png")
    ]


def test_the_residual_is_that_of_a_prior_that_sees_grey_everywhere(watched):
    """It answers eps_hat = z_t / sigma, so eps_hat - eps = alpha / sigma z_0."""
    table = read_table(watched / "progress.csv")
    for at, step in enumerate((1, 10, 20)):
        views, noised, answers = rows_of(watched / "shown" / f"{step:06d}.png")
        size = np.sqrt(np.mean((2 * views - 1) ** 2))
        for time in TIMES:
            t = jnp.asarray(time)
            expected = float(SCHEDULE.alpha(t) / SCHEDULE.sigma(t)) * size
            assert table[f"residual_{time:g}"][at] == pytest.approx(expected, rel=0.01)
        np.testing.assert_allclose(answers, 0.5, atol=0.01)
        spread = np.abs(noised - 0.5).reshape(SIZE, 4, SIZE, 3).mean((0, 2, 3))
        assert (np.diff(spread) > 0).all()  # The more noise, the farther from grey.


def test_change_is_that_of_the_pictures_that_were_kept(watched):
    views = [rows_of(watched / "shown" / f"{step:06d}.png")[0] for step in (1, 10, 20)]
    table = read_table(watched / "progress.csv")
    assert table["change"][0] == 0.0
    assert table["change"][1] == pytest.approx(np.sqrt(np.mean((views[1] - views[0]) ** 2)))
    assert table["change"][1] > 0.01 and table["change"][2] == 0.0
    assert table["opacity"][1] > table["opacity"][0] and table["opacity"][1] == table["opacity"][2]


def test_a_resumed_run_writes_the_same(watched, tmp_path):
    first = watch(tmp_path)
    for step, shift in ((1, 0.0), (10, 0.5), (20, 0.9)):  # The last row is lost.
        first(moment(step, shift))
    watch(tmp_path, first=12)(moment(20, 0.5))
    for name in ("progress.csv", "shown/000001.png", "shown/000010.png", "shown/000020.png"):
        assert (tmp_path / name).read_bytes() == (watched / name).read_bytes(), name


def test_large_pictures_are_made_small_by_whole_factors():
    generator = np.random.default_rng(0)
    z = jnp.asarray(generator.uniform(-0.9, 0.9, (2, 8, 8, 3)), jnp.float32)
    got = pictures(*PRIOR, [z, -z], most=3)
    by_hand = (np.asarray(z)[:, :6, :6].reshape(2, 2, 3, 2, 3, 3) / 2 + 0.5).mean((2, 4))
    assert got.shape == (2, 2, 2, 2, 3)
    np.testing.assert_allclose(got[0], by_hand, atol=1e-6)

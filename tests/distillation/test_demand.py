import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from helpers.prior_steps import CONFIG, make_model
from helpers.tiny import SCHEDULE, zeros

from dreamfusion_jax import devices
from dreamfusion_jax.distillation import demand
from dreamfusion_jax.distillation.demand import Demand, TooLongError, demand_of, duration
from dreamfusion_jax.distillation.train import init_state, train_step
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.priors.prompts import Text

WIDTH = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Layers(GaussianPrior):
    """A prior whose prediction is a product with a matrix of its parameters."""

    def predict_eps(self, params, z, t, embedding):
        return z @ params["in"] @ params["out"]


PARAMS = {"in": (3, WIDTH), "out": (WIDTH, 3)}
SHAPES = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in PARAMS.items()}
TEXT = jax.eval_shape(lambda: Text(jnp.zeros((4, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1))))


def test_the_arithmetic_and_the_memory_of_a_run_are_counted_without_running_it():
    model = make_model(Layers(SCHEDULE, image_size=8))
    found = demand_of(model, CONFIG, SHAPES, TEXT)
    # Both texts at once, forwards only; the grid field and the cameras have small products.
    network = CONFIG.steps * 2 * 64 * 2 * (2 * 3 * WIDTH)
    assert network <= found.flops < 2 * network
    scene = sum(x.nbytes for x in jax.tree.leaves(zeros(model.scene.init)))
    weights = 4 * 2 * 3 * WIDTH
    product = 4 * 128 * (3 + WIDTH)
    # Parameters, gradient and two moments.
    assert 4 * scene + weights + product <= found.size < 4 * scene + weights + 2 * product + 1000
    assert found.dtype == jnp.float32


def test_the_first_step_is_not_traced_again():
    model = make_model(Layers(SCHEDULE, image_size=8))
    demand_of(model, CONFIG, SHAPES, TEXT)
    traces = []
    object.__setattr__(model.prior, "predict_eps", traces.append)
    params, text = (jax.tree.map(lambda s: jnp.zeros(s.shape), x) for x in (SHAPES, TEXT))
    state = init_state(model, CONFIG, 0)
    train_step.trace(state, params, text, model=model, config=CONFIG)
    assert traces == []


def test_long_runs_are_refused_and_short_ones_are_not_even_measured(monkeypatch):
    monkeypatch.setattr(demand, "product_rate", lambda dtype: 1e11)
    long, short = (Demand(flops, 0, jnp.dtype(jnp.float32)) for flops in (1e17, 1e13))
    with pytest.raises(TooLongError, match=r"at least 12 days on cpu.* 100 GFLOP/s.*take_the_time"):
        long.check_time()
    Demand(4e15, 0, long.dtype).check_time()
    monkeypatch.setattr(demand, "product_rate", None)
    short.check_time()


def test_what_has_no_room_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda device=None: 3 * 2**30)
    fits, large = (Demand(0.0, size, jnp.dtype(jnp.float32)) for size in (2**31, 2**32))
    fits.check_memory()
    with pytest.raises(devices.OutOfMemoryError, match=r"4\.00 GiB, and 3\.00 GiB.*latent-sd"):
        large.check_memory()


def test_the_rate_of_products_is_that_of_products():
    rate = functools.partial(devices.product_rate, jnp.dtype(jnp.float32))
    assert 1e9 < rate() < 1e15 and rate() == rate()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.6, "60 seconds"), (700.0, "12 minutes"), (90000.0, "25 hours"), (7e5, "8 days")],
)
def test_times_in_words(seconds, words):
    assert duration(seconds) == words

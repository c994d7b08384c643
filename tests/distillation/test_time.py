import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dreamfusion_jax.distillation.time import TimeConfig, sample_time
from dreamfusion_jax.schedules import Ramp


def test_times_are_uniform_and_their_upper_end_is_annealed():
    config = TimeConfig(high=Ramp(0.98, 0.5, until=0.5))
    draw = jax.jit(lambda step: sample_time(jax.random.key(3), 20_000, step, 200, config))
    for step, high in {0: 0.98, 50: 0.74, 100: 0.5, 200: 0.5}.items():
        t = np.asarray(draw(jnp.array(step, jnp.float32)), np.float64)
        assert t.min() >= 0.02 and t.max() <= high
        assert scipy.stats.kstest(t, scipy.stats.uniform(0.02, high - 0.02).cdf).pvalue > 1e-3


@pytest.mark.parametrize("step", [0.0, 7e3])
def test_the_papers_times_are_uniform_from_002_to_098_throughout(step):
    t = sample_time(jax.random.key(4), 20_000, jnp.array(step), 15_000, TimeConfig())
    assert scipy.stats.kstest(t, scipy.stats.uniform(0.02, 0.96).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("low", {"low": 2.0}),
        ("low", {"low": -0.1}),
        ("high", {"high": Ramp(1.2, 0.5, 0.5)}),
        ("high", {"low": 0.3, "high": Ramp(0.98, 0.2, 0.5)}),
    ],
)
def test_impossible_times_are_refused(name, settings):
    with pytest.raises(ValueError, match=f"^{name} of TimeConfig must be"):
        TimeConfig(**settings)

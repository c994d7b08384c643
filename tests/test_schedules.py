import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.schedules import Ramp


def check(ramp, steps, values):
    """The ramp has these values at these steps, called at once and in a program."""
    program = jax.jit(ramp, static_argnums=1)
    for step, value in values.items():
        np.testing.assert_allclose(ramp(step, steps), value, rtol=1e-5)
        np.testing.assert_allclose(program(jnp.array(step), steps), value, rtol=1e-5)


def test_a_ramp_goes_from_start_to_end_and_stays():
    check(Ramp(5e-2, 2e-3, 1 / 3), 15_000, {0: 5e-2, 2500: 2.6e-2, 5000: 2e-3, 15_000: 2e-3})


@pytest.mark.parametrize("steps", [20, 600, 10_007])
def test_a_ramp_scales_with_the_run(steps):
    values = {0.0: 7.0, 0.25: 7.0, 0.375: 6.0, 0.5: 5.0, 0.75: 3.0, 1.0: 3.0}
    ramp = Ramp(7.0, 3.0, until=0.75, begin=0.25)
    for moment, value in values.items():
        np.testing.assert_allclose(ramp(moment * steps, steps), value, rtol=1e-5)


def test_whole_steps_are_hit_exactly():
    # 5 / 6 of 600 steps are 500 and no rounding error more: as if divided by 500.
    ramp = Ramp(0.0, 1.0, 5 / 6)
    steps = np.arange(601, dtype=np.float32)
    got = np.array([ramp(step, 600) for step in steps])
    np.testing.assert_array_equal(got, np.clip(steps / np.float32(500), 0, 1))


def test_a_geometric_ramp_multiplies_by_as_much_in_equal_times():
    ramp = Ramp(1.0, 1e-4, until=0.75, begin=0.25, course="geometric")
    check(ramp, 100, {0: 1.0, 25: 1.0, 37.5: 0.1, 50: 1e-2, 62.5: 1e-3, 75: 1e-4, 100: 1e-4})


def test_a_ramp_of_no_length_jumps():
    check(Ramp(1.0, 0.3, 0.0), 100, {0: 0.3, 1: 0.3, 100: 0.3})
    check(Ramp(1.0, 0.3, until=0.5, begin=0.5), 100, {0: 1.0, 49: 1.0, 50: 0.3, 100: 0.3})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((float("nan"), 1.0, 0.5), "start"),
        ((0.0, float("inf"), 0.5), "end"),
        ((0.0, 1.0, 5000.0), "until"),
        ((0.0, 1.0, -0.1), "until"),
        ((0.0, 1.0, 0.5, -0.1), "begin"),
        ((0.0, 1.0, 0.5, 0.6), "begin"),
        ((0.0, 1.0, 0.5, 0.0, "geometric"), "start"),
        ((1.0, -1.0, 0.5, 0.0, "geometric"), "end"),
    ],
)
def test_what_is_no_ramp_is_refused(values, name):
    with pytest.raises(ValueError, match=f"^{name} of Ramp must be"):
        Ramp(*values)


def test_at_the_end_stands_the_value_of_the_last_step():
    for ramp, value in ((Ramp(5e-2, 2e-3, 1 / 3), 2e-3), (Ramp(4.0, 1.0, 1.0), 1.0)):
        np.testing.assert_allclose(ramp.at_end(600), value, rtol=1e-6)
    np.testing.assert_allclose(
        Ramp(1e-2, 1e-6, 1.0, course="geometric").at_end(40), 1e-6, rtol=1e-5
    )

"""Numbers drawn in a row are those of jax.random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax import draws


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_numbers_in_a_row_are_those_of_jax(shape):
    key = jax.random.key(3)
    np.testing.assert_array_equal(draws.uniform(key, shape), jax.random.uniform(key, shape))
    np.testing.assert_array_equal(draws.normal(key, shape), jax.random.normal(key, shape))


def test_a_row_begins_with_what_its_key_draws():
    keys = jax.random.split(jax.random.key(5), 4)
    rows = draws.rows(keys, 6)
    for key, row in zip(keys, rows, strict=True):
        np.testing.assert_array_equal(row[0], jax.random.uniform(key))
        np.testing.assert_array_equal(row[:3], jax.random.uniform(key, (3,)))
        np.testing.assert_allclose(
            draws.between(row, -2.0, 0.5),
            jax.random.uniform(key, (6,), minval=-2.0, maxval=0.5),
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            draws.gaussian(row), jax.random.normal(key, (6,)), rtol=1e-5, atol=1e-7
        )


def test_deviates_are_normal():
    deviates = np.asarray(
        draws.gaussian(draws.rows(jax.random.split(jax.random.key(1), 2), 50_000))
    )
    assert abs(deviates.mean()) < 0.01 and abs(deviates.std() - 1.0) < 0.01
    assert abs((np.abs(deviates) < 1.0).mean() - 0.6827) < 0.01
    assert np.all(np.isfinite(np.asarray(draws.gaussian(jnp.array([0.0, 1.0 - 2.0**-24])))))

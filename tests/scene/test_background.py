import functools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import encode_by_hand, network_by_hand, random_params, sphere_points

from dreamfusion_jax.scene.background import EnvironmentMap


@pytest.mark.parametrize("latent", [False, True])
def test_the_environment_map_is_a_colour_for_every_direction(latent):
    environment = EnvironmentMap(width=8, blocks=1, frequencies=3)
    params = random_params(functools.partial(environment.init, latent=latent))
    directions = sphere_points(40)
    code = encode_by_hand(directions, np.zeros(40), 3)
    raw = network_by_hand(params, code, blocks=1)
    colours = environment(params, jnp.array(directions, jnp.float32), latent=latent)
    assert colours.shape == (40, 4 if latent else 3)
    wanted = raw if latent else 1 / (1 + np.exp(-raw))
    np.testing.assert_allclose(colours, wanted, rtol=1e-4, atol=1e-5)
    assert colours.std(axis=0).min() > 0.02

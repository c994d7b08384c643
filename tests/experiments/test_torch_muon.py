"""Muon in PyTorch against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from experiments.torch_muon import Muon


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (5, 3, 3, 3)])
def test_it_takes_the_steps_of_optax(shape):
    """Over several steps, so that the momentum and its correction count."""
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(5, *shape)).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    ours = Muon([weight], 0.1, 0.3)
    numbers = optax.contrib.MuonDimensionNumbers(tuple(range(1, len(shape))), 0)
    reference = optax.contrib.muon(
        0.1, weight_decay=0.3, consistent_rms=0.2, muon_weight_dimension_numbers={"w": numbers}
    )
    params = {"w": jnp.asarray(start)}
    with jax.numpy_dtype_promotion("standard"):
        state = reference.init(params)
        for gradient in gradients:
            weight.grad = torch.from_numpy(gradient)
            ours.step()
            update, state = reference.update({"w": jnp.asarray(gradient)}, state, params)
            params = {"w": params["w"] + update["w"]}
    np.testing.assert_allclose(weight.detach().numpy(), params["w"], atol=2e-5)
    assert np.abs(params["w"] - start).max() > 0.1

"""Convolutions of very small pictures are products; PyTorch's are the reference."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dreamfusion_jax.diffusion.layers import conv3x3


@pytest.mark.parametrize(
    ("size", "stride", "pad_before"),
    [
        ((1, 1), 1, 1),
        ((1, 1), 2, 1),
        *itertools.product([(2, 2), (3, 4), (4, 4), (4, 5)], [1, 2], [1]),
        *itertools.product([(2, 2), (3, 4), (4, 4), (4, 5)], [2], [0]),
    ],
)
def test_a_convolution_is_pytorchs_whatever_the_size_of_the_picture(size, stride, pad_before):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 5, 7)).astype(np.float32)
    bias = rng.normal(size=7).astype(np.float32)
    padded = np.pad(x, ((0, 0), (pad_before, 1), (pad_before, 1), (0, 0)))
    truth = torch.nn.functional.conv2d(
        torch.tensor(padded).permute(0, 3, 1, 2),
        torch.tensor(kernel).permute(3, 2, 0, 1),
        torch.tensor(bias),
        stride=stride,
    )
    layer = conv3x3(7, "conv", jnp.float32, stride=stride, pad_before=pad_before)
    ours = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(ours, truth.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)


def test_small_pictures_are_no_convolution_and_larger_ones_are():
    layer = conv3x3(7, "conv", jnp.float32)
    params = {"params": {"kernel": jnp.ones((3, 3, 5, 7)), "bias": jnp.zeros(7)}}
    small, large = (
        str(jax.make_jaxpr(layer.apply)(params, jnp.ones((1, side, side, 5)))) for side in (4, 5)
    )
    assert "conv_general_dilated" not in small and "conv_general_dilated" in large

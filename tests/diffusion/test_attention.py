import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

from dreamfusion_jax.diffusion.attention import attend, attend_in_pieces


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(count, others, heads=2, width=3):
    return [draw(2, n, heads, width, seed=i) for i, n in enumerate((count, others, others))]


@pytest.mark.parametrize(
    ("count", "others", "most"),
    # All at once, in halves, a query at a time, with more keys than fit, a prime number of queries.
    [(12, 7, 84), (12, 7, 42), (12, 7, 7), (12, 7, 3), (11, 4, 20)],
)
def test_pieces_are_the_sums_written_out(count, others, most):
    query, key, value = inputs(count, others)
    got = np.asarray(attend_in_pieces(*map(jnp.asarray, (query, key, value)), most=most))
    for b, n, h in np.ndindex(got.shape[:3]):
        weights = np.exp([np.float64(query[b, n, h]) @ k / 3**0.5 for k in key[b, :, h]])
        wanted = sum(w * v for w, v in zip(weights / weights.sum(), value[b, :, h], strict=True))
        np.testing.assert_allclose(got[b, n, h], wanted, atol=1e-6)


def test_gradients_go_through_pieces():
    def attend_to(*arrays):
        return attend_in_pieces(*map(jnp.asarray, arrays), scale=0.7, most=8)

    check_grads(attend_to, inputs(6, 4), 1, ["rev"], 1e-2, 1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_maps_attend_as_pytorch_says(dtype):
    # As many logits as a CPU looks at in pieces.
    query, key, value = (draw(1, 512, 16, seed=seed) for seed in range(3))
    got = attend(*(jnp.asarray(x, dtype) for x in (query, key, value)), heads=2)
    assert got.dtype == dtype
    heads = [torch.from_numpy(x).reshape(1, 512, 2, 8).transpose(1, 2) for x in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*heads)
    wanted = wanted.transpose(1, 2).reshape(1, 512, 16).numpy()
    bound = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(np.asarray(got, np.float32), wanted, atol=bound)
    if jax.default_backend() == "cpu":
        text = jax.jit(lambda q: attend(q, q, q, heads=2)).lower(jnp.asarray(query)).as_text()
        assert "while" in text

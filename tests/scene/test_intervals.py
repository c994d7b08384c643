import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.scene import intervals

resample = jax.jit(intervals.resample, static_argnames="num")
dilate = jax.jit(intervals.dilate)
interlevel_loss = jax.jit(intervals.interlevel_loss)
distortion_loss = jax.jit(intervals.distortion_loss)

EDGES = np.array([0.5, 1.0, 1.1, 1.1, 1.4, 2.0, 2.1, 3.0], np.float32)
WEIGHTS = np.array([0.0, 0.3, 0.0, 0.05, 0.1, 0.4, 0.0], np.float32)


def random_histogram(seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted edges with one empty interval in the middle, weights with some exact zeros."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(1.0, 3.0, num + 1))
    edges[num // 2 + 1] = edges[num // 2]
    weights = rng.uniform(0.0, 1.0, num) * (rng.uniform(size=num) > 0.3)
    weights[num // 2] = 0.0
    return edges.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def test_uniform_edges_are_a_linspace_for_every_ray():
    near, far = np.array([[0.1], [0.7]], np.float32), np.array([[2.0], [0.7]], np.float32)
    edges = intervals.uniform_edges(jnp.array(near), jnp.array(far), 5)
    np.testing.assert_allclose(edges, np.linspace(near, far, 6, axis=-1), rtol=1e-6)


def test_dense_resampling_has_the_frequencies_of_the_histogram():
    num = 50_000
    edges = resample(None, jnp.array(EDGES), jnp.array(WEIGHTS), num)
    counts = np.array([np.sum((edges >= a) & (edges < b)) for a, b in itertools.pairwise(EDGES)])
    np.testing.assert_allclose(counts / num, WEIGHTS / WEIGHTS.sum(), atol=3 / num)


def test_jittered_samples_pooled_over_rays_have_the_frequencies_of_the_histogram():
    rays, num = 20_000, 6
    edges, weights = (jnp.tile(jnp.array(x), (rays, 1)) for x in (EDGES, WEIGHTS))
    new = np.asarray(resample(jax.random.key(0), edges, weights, num), np.float64)
    assert np.all(np.diff(new) >= 0) and new.min() >= EDGES[0] and new.max() <= EDGES[-1]
    # Undo 'edges are the middles of neighbouring points': no end is clipped in this histogram.
    assert new.min() > EDGES[0] and new.max() < EDGES[-1]
    points = [0.5 * (new[:, 0] + new[:, 1])]
    for j in range(1, num):
        points.append(2.0 * new[:, j] - points[-1])
    counts, _ = np.histogram(points, np.unique(EDGES) + 1e-6)
    expected = np.delete(WEIGHTS, 2) / WEIGHTS.sum()
    # The points of a ray move together, so a ray's count is within 1 of its mean: the standard
    # error of a pooled frequency is below 0.5 / num / sqrt(rays) = 6e-4; five of them allowed.
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=3e-3)


def test_one_jitter_moves_all_samples_of_a_ray():
    rays, num = 2_000, 8
    edges = intervals.uniform_edges(jnp.zeros(rays), jnp.ones(rays), 3)
    new = resample(jax.random.key(1), edges, jnp.ones((rays, 3)), num)
    np.testing.assert_allclose(np.diff(new)[:, 1:-1], 1 / num, atol=1e-6)
    offset = np.sort(np.asarray(new)[:, 1] - 0.5 / num) * num
    np.testing.assert_allclose(offset, (np.arange(rays) + 0.5) / rays, atol=0.04)


@pytest.mark.parametrize("weights", [np.full(4, 1e-3), np.zeros(4)])
def test_flat_or_empty_weights_give_uniform_edges(weights):
    edges = jnp.linspace(0.5, 2.5, 5)
    new = resample(None, edges, jnp.array(weights, jnp.float32), 7)
    np.testing.assert_allclose(new, np.linspace(0.5, 2.5, 8), rtol=1e-5)


def test_resample_on_a_ray_of_no_length_is_finite():
    new = resample(jax.random.key(0), jnp.ones(4), jnp.zeros(3), 5)
    np.testing.assert_array_equal(new, np.ones(6))


def test_resample_rejects_a_single_interval():
    with pytest.raises(ValueError, match="at least 2"):
        resample(None, jnp.linspace(0.0, 1.0, 3), jnp.ones(2), 1)


@pytest.mark.parametrize("dilation", [0.0, 0.03, 0.4])
def test_dilate_is_the_maximum_over_a_window(dilation):
    edges, weights = random_histogram(seed=3, num=9)
    near, far = 0.9, 2.9
    new_edges, new_weights = (
        np.asarray(x, np.float64)
        for x in dilate(
            jnp.array(edges), jnp.array(weights), dilation, jnp.array(near), jnp.array(far)
        )
    )
    assert np.all(np.diff(new_edges) >= 0) and np.all(new_weights >= 0)
    assert new_edges[0] >= near - 1e-6 and new_edges[-1] <= far + 1e-6
    np.testing.assert_allclose(new_weights.sum(), 1.0, rtol=1e-5)

    def density(e, w, s):
        inside = [i for i in range(len(w)) if e[i] <= s < e[i + 1]]
        return max((w[i] / (e[i + 1] - e[i]) for i in inside), default=0.0)

    def window_maximum(s):
        reached = [
            weights[i] / (edges[i + 1] - edges[i])
            for i in range(len(weights))
            if edges[i + 1] > edges[i] and edges[i] <= s + dilation and edges[i + 1] >= s - dilation
        ]
        return max(reached, default=0.0)

    grid = np.linspace(near + 1e-4, far - 1e-4, 1501)
    away_from_edges = np.abs(grid[:, None] - new_edges).min(axis=1) > 1e-5
    grid = grid[away_from_edges]
    assert len(grid) > 1450
    got = np.array([density(new_edges, new_weights, s) for s in grid])
    wanted = np.array([window_maximum(s) for s in grid])
    scale = got.sum() / wanted.sum()
    np.testing.assert_allclose(got, scale * wanted, rtol=1e-4, atol=1e-6)
    # Scaled to one over [near, far]: compare with a Riemann sum of the brute-force maximum.
    np.testing.assert_allclose(scale, 1.0 / (wanted.mean() * (far - near)), rtol=0.01)


def test_dilate_keeps_empty_rays_empty_and_takes_one_dilation_a_ray():
    edges = jnp.tile(jnp.linspace(1.0, 2.0, 5), (2, 1))
    weights = jnp.array([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    near, far = jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])
    new_edges, new_weights = dilate(edges, weights, jnp.array([0.5, 0.1]), near, far)
    assert np.all(new_weights[0] == 0.0)
    support = np.asarray(new_weights[1]) > 0
    np.testing.assert_allclose(new_edges[1, :-1][support].min(), 1.15, rtol=1e-5)
    np.testing.assert_allclose(new_edges[1, 1:][support].max(), 1.6, rtol=1e-5)


def test_anneal_goes_from_uniform_to_the_weights():
    weights = jnp.array([0.0, 1e-6, 0.2, 0.7])
    np.testing.assert_array_equal(intervals.anneal(weights, 0.0), np.ones(4))
    np.testing.assert_allclose(intervals.anneal(weights, 1.0), weights, rtol=1e-6)
    half = intervals.anneal(weights, jnp.array(0.1), slope=10.0)  # b = 1 / 1.9
    np.testing.assert_allclose(half, np.asarray(weights) ** (1 / 1.9), rtol=1e-5)


def interlevel_by_definition(edges, weights, proposal_edges, proposal_weights):
    loss = 0.0
    for i in range(len(weights)):
        bound = sum(
            proposal_weights[j]
            for j in range(len(proposal_weights))
            if proposal_edges[j] < edges[i + 1] and edges[i] < proposal_edges[j + 1]
        )
        loss += max(0.0, weights[i] - bound) ** 2 / (weights[i] + 1e-7)
    return loss


@pytest.mark.parametrize("seed", range(4))
def test_interlevel_loss_and_gradient_match_the_definition(seed):
    edges, weights = random_histogram(seed, 8)
    proposal_edges, proposal_weights = random_histogram(seed + 10, 12)
    proposal_edges[4], proposal_edges[-1] = edges[3], edges[-1]  # Shared edges do not overlap.
    proposal_edges.sort()
    proposal_weights += 0.01  # Away from the kink of the loss, where weight and bound are zero.
    args = [x.astype(np.float64) for x in (edges, weights, proposal_edges, proposal_weights)]
    value_and_gradient = jax.jit(jax.value_and_grad(interlevel_loss, argnums=(0, 1, 2, 3)))
    value, gradient = value_and_gradient(
        *(jnp.array(x) for x in (edges, weights, proposal_edges, proposal_weights))
    )
    expected = interlevel_by_definition(*args)
    assert expected > 0.01
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert all(np.all(gradient[n] == 0) for n in (0, 1, 2))
    for j, step in enumerate(np.eye(12) * 1e-6):
        up, down = (
            interlevel_by_definition(args[0], args[1], args[2], args[3] + change)
            for change in (step, -step)
        )
        np.testing.assert_allclose(gradient[3][j], (up - down) / 2e-6, rtol=1e-3, atol=1e-4)


def test_interlevel_loss_vanishes_where_the_proposal_bounds_the_field():
    edges, weights = random_histogram(5, 12)
    coarse = np.add.reduceat(weights, [0, 4, 8])
    loss = interlevel_loss(*(jnp.array(x) for x in (edges, weights, edges[[0, 4, 8, 12]], coarse)))
    assert loss < 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_distortion_loss_is_the_double_integral(seed):
    edges, weights = random_histogram(seed, 8)
    # Every interval becomes 200 point masses; the error of the inner part is 1 / 200^2.
    parts = (np.arange(200) + 0.5) / 200
    width = np.diff(edges.astype(np.float64))
    position = (edges[:-1, None] + width[:, None] * parts).ravel()
    mass = np.repeat(weights.astype(np.float64) / 200, 200)
    integral = mass @ np.abs(position[:, None] - position) @ mass
    value = distortion_loss(jnp.array(edges), jnp.array(weights))
    np.testing.assert_allclose(value, integral, rtol=3e-5)


def test_distortion_gradient_matches_the_sum_over_pairs():
    edges, weights = random_histogram(7, 8)
    width, middle = np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    distance = np.abs(middle[:, None] - middle)
    expected = 2.0 * distance @ weights + 2.0 / 3.0 * weights * width
    gradient = jax.grad(intervals.distortion_loss, argnums=1)(jnp.array(edges), jnp.array(weights))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_no_gradient_passes_through_sampling_and_all_gradients_are_finite():
    edges = jnp.array(EDGES)

    def sampling_loss(weights, proposal_edges):
        near, far = jnp.array(0.5), jnp.array(3.0)
        widened = dilate(proposal_edges, weights, 0.05, near, far)
        annealed = intervals.anneal(widened[1], 0.3)
        new = resample(jax.random.key(0), widened[0], annealed, 8)
        return jnp.sum(jnp.sin(new))

    sampling_gradient = jax.jit(jax.grad(sampling_loss, argnums=(0, 1)))
    for weights in (jnp.zeros(7), jnp.array(WEIGHTS)):
        assert all(np.all(g == 0) for g in sampling_gradient(weights, edges))
        distortion = jax.grad(distortion_loss, argnums=(0, 1))(edges, weights)
        interlevel = jax.grad(interlevel_loss, argnums=3)(edges, weights, edges, weights)
        assert all(np.all(np.isfinite(g)) for g in (*distortion, interlevel))

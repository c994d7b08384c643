import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import Cloud, Fog, fresh, light, one_camera, rays_across, scene, weights_by_loop

from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import cast_rays
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.image import render_image
from dreamfusion_jax.scene.intervals import interlevel_loss
from dreamfusion_jax.scene.render import composite, render_rays, sample_intervals

ALBEDO = np.array([0.8, 0.4, 0.1])
GREY = jnp.array([0.5, 0.6, 0.7])
ZERO = jnp.array(0.0)


@functools.partial(jax.jit, static_argnames=("model", "per_view"))
def render(model, params, rays, lighting, key=None, backdrop=GREY, per_view=False):
    if not per_view:
        backdrop = backdrop.reshape(*(1,) * (rays.origin.ndim - 1), 3)
    return render_rays(model, params, rays, lighting, variance=ZERO, backdrop=backdrop, key=key)


def test_compositing_is_a_loop_over_samples():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.uniform(1, 3, (20, 9)), axis=-1)
    edges[:, 4] = edges[:, 3]
    density = rng.exponential(3.0, (20, 8)) * (rng.uniform(size=(20, 8)) > 0.3)
    density[5:10] *= 10.0 ** rng.uniform(-4, 9, (5, 8))  # From a breath to solid rock.
    edges, density = edges.astype(np.float32), density.astype(np.float32)
    weights = composite(jnp.array(density), jnp.array(edges))
    wanted = weights_by_loop(density.astype(np.float64), edges.astype(np.float64))
    np.testing.assert_allclose(weights, wanted, rtol=1e-4, atol=1e-7)
    assert np.sum(weights, axis=-1).max() <= 1 + 1e-6

    @jax.jit
    @jax.grad
    def gradient(density):
        return jnp.sum(jnp.sin(composite(density, jnp.array(edges)) * 3.0))

    smooth = np.delete(np.arange(20), np.arange(5, 10))
    step = 1e-6
    for i in range(8):
        ahead, behind = (density.astype(np.float64) + s * np.eye(8)[i] for s in (step, -step))
        values = [np.sin(3 * weights_by_loop(d, edges.astype(np.float64))) for d in (ahead, behind)]
        wanted = (values[0] - values[1]).sum(-1) / (2 * step)
        np.testing.assert_allclose(
            gradient(jnp.array(density))[smooth, i], wanted[smooth], rtol=1e-3, atol=1e-5
        )
    assert np.all(np.isfinite(gradient(jnp.array(density))))


def test_compositing_rock_behind_mist_leaves_the_mist():
    weights = composite(jnp.array([1.0, 1e8, 3.0]), jnp.arange(4.0))
    np.testing.assert_allclose(weights, [1 - np.exp(-1), np.exp(-1), 0.0], rtol=1e-6)


def test_a_homogeneous_ball_follows_beer_and_lambert():
    tau, radius = 3.0, 0.9
    rays, origin = rays_across()
    fog = scene(Fog(tau), radius=radius, intervals=64)
    seen = render(fog, fresh(fog), rays, light(ambient=1.0, diffuse=0.0))
    offset = np.abs(origin[:, 1])
    chord = 2 * np.sqrt(np.maximum(radius**2 - offset**2, 0.0))
    through = np.exp(-tau * chord)
    np.testing.assert_allclose(seen.opacity, 1 - through, atol=2e-6)
    colour = (1 - through)[:, None] * ALBEDO + through[:, None] * np.asarray(GREY)
    np.testing.assert_allclose(seen.colour, colour, atol=5e-6)
    np.testing.assert_allclose(seen.albedo, (1 - through)[:, None] * ALBEDO, atol=5e-6)
    hit = chord > 0
    assert hit.sum() == 7
    # The mean of an exponential distribution cut off at the chord's end.
    mean = 1 / tau - chord[hit] * through[hit] / (1 - through[hit])
    depth = 2.0 - chord[hit] / 2 + mean
    np.testing.assert_allclose(np.asarray(seen.depth)[hit], depth, atol=5e-4)


def test_a_cloud_has_the_opacity_of_its_line_integral():
    cloud = Cloud(density=6.0, width=0.25)
    rays, origin = rays_across(num=13, half=0.7)
    model = scene(cloud, radius=1.4, intervals=64)
    params = fresh(model)
    depths = cloud.density * np.exp(-0.5 * origin[:, 1] ** 2 / 0.25**2) * 0.25 * np.sqrt(2 * np.pi)
    for key in (None, jax.random.key(1)):
        seen = render(model, params, rays, light(), key)
        np.testing.assert_allclose(seen.opacity, 1 - np.exp(-depths), atol=1e-3)


@pytest.mark.parametrize("normals", ["sample", "ray"])
def test_rays_that_miss_show_exactly_the_background(normals):
    rays, _ = rays_across(num=2, half=1.0)
    proposals = (4,) if normals == "sample" else ()
    model = scene(Fog(50.0), radius=0.9, intervals=4, normals=normals, proposals=proposals)
    seen = render(model, fresh(model), rays, light(), jax.random.key(0))
    np.testing.assert_array_equal(seen.colour, np.stack([GREY] * 2))
    for part in (seen.opacity, seen.weights, seen.albedo, seen.normal, seen.light):
        np.testing.assert_array_equal(part, np.zeros(part.shape))
    np.testing.assert_array_equal(seen.depth, [2.0, 2.0])


def test_the_environment_map_shows_through():
    model = scene(Fog(0.7), background=EnvironmentMap(8, 1, 2), radius=0.5, intervals=4)
    params = fresh(model)
    rays = cast_rays(one_camera(), 4, 4)

    @jax.jit
    def see(params):
        lighting = light(ambient=1.0, diffuse=0.0)
        return render_rays(model, params, rays, lighting, variance=ZERO)

    seen = see(params)
    behind = np.asarray(model.background(params["background"], rays.direction, latent=False))
    opacity = np.asarray(seen.opacity)[..., None]
    assert (opacity == 0).any() and (opacity > 0.3).any()
    np.testing.assert_allclose(seen.colour, opacity * ALBEDO + (1 - opacity) * behind, atol=1e-5)


def test_a_background_is_asked_for():
    model = scene(Fog(), intervals=2)
    rays, _ = rays_across(num=1)
    with pytest.raises(ValueError, match="backdrop"):
        jax.eval_shape(lambda p: render_rays(model, p, rays, light(), variance=ZERO), fresh(model))


@pytest.mark.parametrize("normals", ["sample", "ray"])
def test_normals_point_outward_and_are_lit(normals):
    model = scene(Cloud(), radius=1.0, normals=normals, intervals=48)
    rays = cast_rays(one_camera(focal=2.0), 5, 5)
    lighting = light(position=(0.4, 1.0, 1.5))
    seen = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        render(model, fresh(model), rays, lighting),
    )
    origin, direction = (np.asarray(x, np.float64) for x in (rays.origin, rays.direction))
    near, far = seen.edges[..., :-1], seen.edges[..., 1:]
    distance = 0.75 * (far**4 - near**4) / (far**3 - near**3)
    if normals == "ray":
        total = seen.weights.sum(-1, keepdims=True)
        distance = (seen.weights * distance).sum(-1, keepdims=True) / total
        np.testing.assert_allclose(seen.depth, distance[..., 0], rtol=1e-4)
    points = origin[..., None, :] + distance[..., None] * direction[..., None, :]
    outward = points / np.linalg.norm(points, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        seen.normals, np.broadcast_to(outward, seen.normals.shape), atol=1e-4
    )
    # At the 24 pixels around the middle one, whose ray meets the centre, where tau is flat.
    towards = np.array([0.4, 1.0, 1.5]) - points
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    received = 0.1 + 0.9 * np.maximum(0, (outward * towards).sum(-1))
    lit = (seen.weights * received).sum(-1)
    np.testing.assert_allclose(seen.light, lit, atol=1e-4)
    colour = lit[..., None] * ALBEDO + (1 - seen.opacity)[..., None] * np.asarray(GREY)
    np.testing.assert_allclose(seen.colour, colour, atol=1e-4)
    total = (seen.weights[..., None] * outward).sum(-2)
    np.testing.assert_allclose(seen.normal, total, atol=1e-4)


def test_each_view_has_its_own_light_and_backdrop():
    model = scene(Cloud(), radius=1.0, intervals=8)
    params = fresh(model)
    cameras = [one_camera(azimuth=a) for a in (0.1, 2.0)]
    views = [cast_rays(camera, 3, 3) for camera in cameras]
    lights = [light(), light(position=(-2.0, 0.3, 0.1), textureless=True)]
    backdrops = [GREY, 0.5 * GREY]
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    both = render(model, params, stack(*views), stack(*lights), None, stack(*backdrops), True)
    for i in range(2):
        alone = render(model, params, views[i], lights[i], None, backdrops[i])
        for name in ("colour", "light", "normal", "depth"):
            np.testing.assert_allclose(
                getattr(both, name)[i], getattr(alone, name), rtol=1e-5, atol=1e-6
            )


@pytest.fixture(scope="module")
def shell():
    """A thin shell, and proposals that learned where it is from the interlevel loss alone."""
    model = scene(
        Cloud(density=60.0, width=0.02, centre=0.5),
        proposal=ProposalMlp(16, 1, 4),
        radius=1.4,
        proposals=(16, 16),
        intervals=16,
    )
    rays, _ = rays_across(num=32, half=0.4)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def learn(params):
        def step(carry, key):
            def loss(proposals):
                seen = render_rays(
                    model,
                    {**params, "proposals": proposals},
                    rays,
                    light(),
                    variance=ZERO,
                    backdrop=GREY[None],
                    key=key,
                )
                return sum(
                    jnp.mean(interlevel_loss(seen.edges, seen.weights, *histogram))
                    for histogram in seen.proposals
                )

            value, gradient = jax.value_and_grad(loss)(carry[0])
            with jax.numpy_dtype_promotion("standard"):
                update, state = optimizer.update(gradient, carry[1])
            return (optax.apply_updates(carry[0], update), state), value

        proposals = params["proposals"]
        keys = jax.random.split(jax.random.key(2), 300)
        carry, losses = jax.lax.scan(step, (proposals, optimizer.init(proposals)), keys)
        return {**params, "proposals": carry[0]}, losses

    before = fresh(model)
    after, losses = learn(before)
    return model, rays, before, after, losses


def test_trained_proposals_gather_the_samples_at_a_thin_shell(shell):
    model, rays, before, after, losses = shell
    y = np.asarray(rays.origin)[:, 1]
    surface = 2.0 - np.sqrt(0.5**2 - y**2)

    def share_near_the_surface(params):
        edges = np.asarray(render(model, params, rays, light()).edges)
        return np.mean(np.abs(0.5 * (edges[:, 1:] + edges[:, :-1]) - surface[:, None]) < 0.1)

    assert losses[-20:].mean() < 0.2 * losses[:5].mean()
    first, trained = share_near_the_surface(before), share_near_the_surface(after)
    assert first < 0.2 and trained > 0.5


def test_no_gradient_goes_through_the_places_of_the_samples(shell):
    model, rays, _, params, _ = shell

    @jax.jit
    @jax.grad
    def gradient(params, rays):
        seen = render_rays(model, params, rays, light(), variance=ZERO, backdrop=GREY[None])
        places = seen.edges.sum() + sum(edges.sum() for edges, _ in seen.proposals)
        return places + seen.colour.sum() + seen.depth.sum()

    gradients = gradient(params, rays)
    for leaf in jax.tree.leaves(gradients["proposals"]):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    assert np.abs(gradients["field"]["albedo"]).min() > 0


def test_later_rounds_dilate_less():
    # A speck at the origin, the field's samples gather around; the histogram of the second
    # round is widened by 0.0025 + 0.5 / (16 * 16) of the ray on either side.
    proposal = ProposalMlp(4, 1, 1, density=Density(0.0, "outside", strength=1e4, width=0.02))
    model = scene(Fog(), proposal=proposal, radius=1.4, proposals=(16, 16), intervals=16)
    params = jax.tree.map(jnp.zeros_like, fresh(model))
    for network in params["proposals"]:
        network["Dense_3"]["bias"] = jnp.array([-30.0])
    rays, _ = rays_across(num=1, half=0.0)
    edges, rounds = jax.jit(
        lambda params: sample_intervals(
            model, params, rays, variance=ZERO, key=None, train_fraction=jnp.array(1.0)
        )
    )(params)
    (first, _), (second, weights) = (jax.tree.map(np.asarray, r) for r in rounds)
    np.testing.assert_allclose(first[0], np.linspace(0.6, 3.4, 17), atol=1e-5)
    heavy = weights[0] > 1e-3
    low, high = second[0, :-1][heavy].min(), second[0, 1:][heavy].max()
    reach = (0.0025 + 0.5 / 256) * 2.8
    middle = 0.5 * (edges[0, 1:] + edges[0, :-1])[1:-1]
    assert low - reach - 0.01 < middle.min() and middle.max() < high + reach + 0.01
    assert high - low < 0.15


def test_jitter_comes_from_the_key_alone():
    model = scene(Cloud(), radius=1.0, intervals=8, proposals=(8,))
    params = fresh(model)
    rays, _ = rays_across(num=3, half=0.5)
    edges = [
        np.asarray(render(model, params, rays, light(), key).edges)
        for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(edges[0], edges[1])
    assert np.abs(edges[0] - edges[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "chunks"), [(5, 7, (4, 4096)), (4, 2, (1,)), (1, 3, (3,))]
)
def test_an_image_is_its_rays_whatever_the_chunk(height, width, chunks):
    model = scene(Cloud(), radius=1.0, intervals=4, proposals=(4,))
    params = fresh(model)
    camera = one_camera()
    whole = render(model, params, cast_rays(camera, height, width), light())
    for chunk in chunks:
        image = render_image(
            model,
            params,
            camera,
            light(),
            height=height,
            width=width,
            variance=ZERO,
            backdrop=GREY,
            chunk=chunk,
        )
        for name, value in image.items():
            wanted = np.asarray(getattr(whole, name)).reshape(height, width, -1)
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=2e-6, err_msg=name)
    assert set(image) == {f.name for f in dataclasses.fields(whole)} - {
        "weights",
        "edges",
        "normals",
        "proposals",
    }

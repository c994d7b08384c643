import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from helpers.tiny import (
    SCHEDULE,
    Cloud,
    Fog,
    LatentPrior,
    encode_by_hand,
    fresh,
    light,
    network_by_hand,
    one_camera,
    rays_across,
    scene,
    weights_by_loop,
)
from PIL import Image

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.losses import LossConfig
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.train import TrainConfig
from dreamfusion_jax.looks.latents import DecodedView, Decoder, decode_view, fit_colours
from dreamfusion_jax.looks.views import look
from dreamfusion_jax.presets import OutputConfig, RunConfig
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.settings import RunSettings
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel, render_rays
from dreamfusion_jax.schedules import Ramp

LATENT = (2.0, -3.0, 0.5, 40.0)
BACKGROUND = EnvironmentMap(8, 1, 2)
ZERO = jnp.array(0.0)
MATRIX, OFFSET = (np.asarray(x, np.float64) for x in LatentPrior.params())


def decode_by_hand(latents):
    return np.clip(np.asarray(latents, np.float64) @ MATRIX + OFFSET, 0.0, 1.0)


@pytest.mark.parametrize("normals", ["sample", "ray"])
def test_latents_are_composited_as_they_are_whatever_the_light(normals):
    cloud = Cloud(colour=LATENT)
    model = scene(cloud, BACKGROUND, radius=1.0, intervals=12, normals=normals)
    params = fresh(model)
    rays, origin = rays_across(num=5, half=0.5)

    @jax.jit
    def render(lighting):
        return render_rays(model, params, rays, lighting, variance=ZERO)

    seen = render(light())
    edges = np.asarray(seen.edges, np.float64)
    near, far = edges[:, :-1], edges[:, 1:]
    along = 2.0 - 0.75 * (far**4 - near**4) / (far**3 - near**3)
    radius = np.sqrt(along**2 + origin[:, 1:2] ** 2)
    weights = weights_by_loop(20.0 * np.exp(-0.5 * (radius / 0.2) ** 2), edges)
    code = encode_by_hand(np.asarray(rays.direction, np.float64), np.zeros(5), 2)
    behind = network_by_hand(params["background"], code, blocks=1)
    through = 1 - weights.sum(-1, keepdims=True)
    assert through.min() < 0.1 and through.max() > 0.5
    wanted = weights.sum(-1, keepdims=True) * np.array(LATENT) + through * behind
    np.testing.assert_allclose(seen.colour, wanted, rtol=1e-3, atol=2e-4)
    for other in (light(textureless=True), light(position=(-3.0, 0.0, 0.0), ambient=0.0)):
        np.testing.assert_array_equal(render(other).colour, seen.colour)
    assert np.abs(render(light(ambient=0.5)).light - seen.light).max() > 0.1


def test_the_field_says_whether_the_scene_and_its_background_are_latent():
    with pytest.raises(ValueError, match="background of its own"):
        SceneModel(Fog(colour=LATENT), background=None)
    latent, plain = (scene(field, BACKGROUND) for field in (Fog(colour=LATENT), Fog()))
    assert latent.latent and not plain.latent and not scene(Fog()).latent
    rays, _ = rays_across(num=5)
    for model, channels in ((latent, 4), (plain, 3)):
        seen = jax.eval_shape(
            lambda p, m=model: render_rays(m, p, rays, light(), variance=ZERO), fresh(model)
        )
        assert seen.colour.shape == seen.albedo.shape == (5, channels)


def test_the_colours_of_a_linear_decoder_are_found_where_something_is_seen():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 5, 6, 4))
    opacity = rng.uniform(size=(2, 5, 6, 1)) * (rng.uniform(size=(2, 5, 6, 1)) > 0.4)
    # A texture whose mean over each patch of 2 x 3 pixels is nothing; nonsense where all is air.
    texture = np.tile([[1.0, -2.0, 1.0], [0.5, -1.0, 0.5]], (5, 6))[None, ..., None]
    picture = np.kron(latents @ MATRIX + OFFSET, np.ones((1, 2, 3, 1))) + 0.1 * texture
    picture += 5.0 * np.kron(opacity == 0, np.ones((1, 2, 3, 1)))
    view = DecodedView(*(jnp.array(x, jnp.float32) for x in (latents, opacity, picture)))
    colours = fit_colours(view)
    np.testing.assert_allclose(colours.matrix, MATRIX, atol=1e-5)
    np.testing.assert_allclose(colours.offset, OFFSET, atol=1e-5)
    bright = jnp.array([[5.0, -9.0, 9.0, 0.0], [0.3, 0.2, 0.1, 0.0]])
    np.testing.assert_allclose(colours(bright), decode_by_hand(bright), atol=1e-5)


def test_a_latent_scene_looks_like_its_decoded_pictures_with_the_light_of_its_shape():
    latent = scene(Cloud(density=2000.0, colour=(1.0, -2.0, 0.5, 3.0)), BACKGROUND, radius=0.6)
    plain = scene(Cloud(density=2000.0), radius=0.6)
    params, camera = fresh(latent), one_camera()
    how = {"size": 16, "variance": ZERO, "backdrop": 0.25}
    with pytest.raises(ValueError, match="decoder"):
        look(latent, params, camera, **how)
    decoder = Decoder(LatentPrior(SCHEDULE, image_size=6), LatentPrior.params())
    looks = look(latent, params, camera, **how, decoder=decoder)
    twin = look(plain, fresh(plain), camera, **how)
    for name in ("opacity", "normals", "textureless"):
        np.testing.assert_allclose(getattr(looks, name), getattr(twin, name), atol=1e-6)
    opacity = np.asarray(looks.opacity)[..., 0]
    middle, outside = (slice(7, 9), slice(7, 9)), opacity == 0
    assert opacity[middle].min() > 0.999 and outside.sum() > 20
    # A latent is 2 pixels: those in the middle show nothing else.
    colour = decode_by_hand([1.0, -2.0, 0.5, 3.0])
    np.testing.assert_allclose(looks.colour[middle], np.broadcast_to(colour, (2, 2, 3)), atol=2e-3)
    received = np.asarray(twin.textureless)[middle]
    assert received.max() < 0.99
    np.testing.assert_allclose(looks.shaded[middle], received * colour, atol=2e-3)
    for picture in (looks.colour, looks.shaded):
        np.testing.assert_array_equal(picture[outside], 0.25)


OBJECT, AROUND = np.array([1.5, -2.0, 0.3, 3.0]), np.array([-2.0, 0.5, 2.0, -1.0])
RUN = RunConfig(
    scene=SceneModel(
        GridField(GridConfig((3, 6)), latent=True),
        SamplingConfig(radius=0.62, proposals=(), intervals=8, normals="ray"),
        background=BACKGROUND,
    ),
    train=TrainConfig(
        steps=80,
        views=2,
        variance=Ramp(0.0, 0.0, 0.0),
        optimizer=AdamConfig(learning_rate=0.1),
        cameras=CameraConfig((0.0, 50.0), 0.0, (1.3, 1.3), 0.0, 0.0, 0.0, "std", (1.1, 1.1)),
        distillation=Sds(guidance_weight=0.0, weighting="image"),
        losses=LossConfig(opacity=0.0),
    ),
    output=OutputConfig(size=16, frames=2, mesh_resolution=16, mesh_texture=0),
)


TRUTH = np.tile(AROUND, (8, 8, 1))
TRUTH[2:6, 2:6] = OBJECT


class SquarePrior(LatentPrior):
    """A latent prior that takes every prompt to mean the square of `TRUTH`."""

    def encode_text(self, params, prompts):
        return jnp.tile(jnp.array(TRUTH.reshape(1, 64, 4), jnp.float32), (len(prompts), 1, 1))


@pytest.mark.slow
def test_a_latent_run_finds_the_mean_of_its_prior_and_shows_it_decoded(tmp_path):
    prior = SquarePrior(SCHEDULE, image_size=8)
    loaded = (prior, LatentPrior.params())
    with Run.start(tmp_path, RunSettings("a square", RUN), loaded) as run:
        run.write_results(run.train())

    decoder, camera = Decoder(*loaded), one_camera(0.5, 0.4, 1.3, 1.1)
    trained, truth = TrainedScene.load(tmp_path, decoder), TRUTH
    seen = decode_view(decoder, RUN.scene, trained.params, camera, variance=ZERO)
    # The square's rim and corners are beyond so coarse a grid.
    errors, opacity = np.abs(np.asarray(seen.latents) - truth), np.asarray(seen.opacity)
    assert opacity[3:5, 3:5].min() > 0.95 and opacity[[0, -1]].max() < 0.2
    assert errors[3:5, 3:5].max() < 0.5 and errors[[0, -1]].mean() < 0.3

    colour = 255 * decode_by_hand(OBJECT)
    mesh = trimesh.load_mesh(tmp_path / "mesh.glb", skip_materials=True)
    linear = np.median(mesh.visual.vertex_colors[:, :3], axis=0) / 255
    srgb = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb, colour, atol=10)
    with Image.open(tmp_path / "preview.png") as preview:
        pixels = np.asarray(preview.convert("RGB"), np.float64).reshape(-1, 3)
    assert (np.abs(pixels - colour).max(-1) < 10).sum() > 100

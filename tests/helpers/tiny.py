"""Small scenes and priors whose truth is known, and networks written out in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.scene.camera import Camera, Rays, orbit
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel, render_rays

LEVELS = np.cos(np.linspace(0.1, 1.45, 10)) ** 2
"""alpha_t^2 of a schedule of 10 steps."""

SCHEDULE = NoiseSchedule(jnp.asarray(LEVELS, jnp.float32), prediction_type="epsilon")


@dataclasses.dataclass(frozen=True)
class Fog:
    """A field of constant density and colour, or latent."""

    density: float = 3.0
    colour: tuple[float, ...] = (0.8, 0.4, 0.1)

    @property
    def latent(self):
        return len(self.colour) == 4

    @property
    def piece(self):
        return None

    @property
    def cell(self):
        return None

    def init(self, key):
        del key
        return {"albedo": jnp.array(self.colour)}

    def __call__(self, params, mean, variance):
        albedo = params["albedo"].reshape((1,) * variance.ndim + (-1,))
        albedo = jnp.broadcast_to(albedo, (*variance.shape, len(self.colour)))
        return jnp.full_like(variance, self.density), albedo

    def regularizer(self, params):
        del params
        return jnp.zeros(())


@dataclasses.dataclass(frozen=True)
class Cloud(Fog):
    """A field whose density is a Gaussian of the radius, around `centre`."""

    density: float = 20.0
    width: float = 0.2
    centre: float = 0.0

    def __call__(self, params, mean, variance):
        _, albedo = super().__call__(params, mean, variance)
        radius = jnp.sqrt(jnp.sum(mean**2, axis=-1) + 1e-12)
        return self.density * jnp.exp(-0.5 * ((radius - self.centre) / self.width) ** 2), albedo


@dataclasses.dataclass(frozen=True, eq=False)
class BentPrior(GaussianPrior):
    """A prior with parameters, not linear in anything, for seeing where gradients go."""

    def predict_eps(self, params, z, t, embedding):
        mean = embedding.reshape(*embedding.shape, *(1,) * (z.ndim - embedding.ndim))
        time = t.reshape(-1, 1, 1, 1)
        return jnp.sin(params["scale"] * z + mean) + params["shift"] * time * mean**2

    @staticmethod
    def params():
        return {"scale": jnp.array(1.3), "shift": jnp.array(0.4)}


@dataclasses.dataclass(frozen=True, eq=False)
class LatentPrior(GaussianPrior):
    """A prior of latents whose text is the mean, a latent a word.

    Its decoder is linear and paints each latent on 2 x 2 pixels.
    """

    def encode_image(self, params, image):
        return image

    def condition(self, text, view, config):
        shape = (-1, self.image_size, self.image_size, 4)
        return jax.tree.map(lambda x: x.reshape(shape), super().condition(text, view, config))

    def decode_image(self, params, z):
        matrix, offset = params
        picture = z @ matrix + offset.reshape(1, 1, 1, 3)
        return jnp.repeat(jnp.repeat(picture, 2, axis=1), 2, axis=2)

    @staticmethod
    def params():
        matrix = [[0.1, -0.05, 0.02], [0.03, 0.08, -0.04], [-0.06, 0.01, 0.09], [0.02, 0.05, 0.01]]
        return jnp.array(matrix), jnp.array([0.4, 0.5, 0.6])


def scene(field, background=None, proposal=None, **sampling):
    sampling = SamplingConfig(**{"proposals": (), "intervals": 32, **sampling})
    return SceneModel(field, sampling, proposal or ProposalMlp(8, 1, 2), background)


def fresh(model):
    return jax.jit(model.init)(jax.random.key(0))


def zeros(init):
    """Parameters that are all zero, of the shapes that a function makes of a key."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), shapes)


def rays_across(num=9, distance=2.0, half=1.15):
    """Parallel rays along -x, side by side in y from -half to half."""
    origin = np.stack([np.full(num, distance), np.linspace(-half, half, num), np.zeros(num)], -1)
    direction = np.tile([-1.0, 0.0, 0.0], (num, 1))
    rays = (x.astype(np.float32) for x in (origin, direction))
    return Rays(*map(jax.device_put, rays)), origin


def weights_by_loop(density, edges):
    weights = np.zeros(density.shape)
    for ray in np.ndindex(density.shape[:-1]):
        transmittance = 1.0
        for i, tau in enumerate(density[ray]):
            alpha = 1.0 - np.exp(-tau * abs(edges[ray][i + 1] - edges[ray][i]))
            weights[ray][i] = transmittance * alpha
            transmittance *= 1.0 - alpha
    return weights


def light(views=(), position=(1.0, 2.0, 3.0), ambient=0.1, diffuse=0.9, textureless=False):
    """The same light for each of the views."""
    values = (jnp.array(position), jnp.array(ambient), jnp.array(diffuse), jnp.array(textureless))
    return Lighting(*(jnp.broadcast_to(x, (*views, *x.shape)) for x in values))


def one_camera(azimuth=0.4, elevation=0.3, distance=2.0, focal=1.0) -> Camera:
    return jax.tree.map(lambda x: x[0], orbit(1, elevation, distance, focal, azimuth))


def sphere_points(num, seed=0, radius=1.0):
    points = np.random.default_rng(seed).normal(size=(num, 3))
    return radius * points / np.linalg.norm(points, axis=-1, keepdims=True)


def random_params(init, scale=0.5):
    """Parameters of order one, so that a network or grid differs from place to place."""
    draw = np.random.default_rng(0).normal
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: jax.device_put(np.float32(scale * draw(size=x.shape))), shapes)


def encode_by_hand(x, variance, frequencies):
    """Integrated positional encoding in float64: all sines, then all cosines."""
    scales = [2.0**level for level in range(frequencies)]
    decay = np.concatenate(
        [np.exp(-0.5 * s**2 * variance)[:, None] * np.ones(3) for s in scales], axis=-1
    )
    angles = np.concatenate([s * x for s in scales], axis=-1)
    return np.concatenate([np.sin(angles) * decay, np.cos(angles) * decay], axis=-1)


def network_by_hand(params, x, blocks):
    """The residual network of the paper in float64: linear, blocks, linear."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)

    def dense(number, x):
        layer = params[f"Dense_{number}"]
        return x @ layer["kernel"] + layer["bias"]

    def norm(number, x):
        layer = params[f"LayerNorm_{number}"]
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * layer["scale"] + layer["bias"]

    x = dense(0, x)
    for block in range(blocks):
        hidden = dense(2 * block + 1, x)
        hidden = hidden / (1 + np.exp(-hidden))
        x = norm(block, x + dense(2 * block + 2, hidden))
    return dense(2 * blocks + 1, x)


def grey_renderer(model, rays, variance):
    """Function from parameters to what rays [1, ...] see over grey, under one light."""

    def render(params):
        return render_rays(
            model,
            params,
            rays,
            light((1,)),
            variance=jnp.array(variance),
            backdrop=jnp.full((1, 3), 0.5),
        )

    return render

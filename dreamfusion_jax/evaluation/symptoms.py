"""What goes wrong with scenes, seen without knowing the truth: four symptoms, a number each.

Emptiness, fog and flatness are read from a few small pictures. Several faces are read from the
prior's own residual: where the words "front view" explain the back of an object better than
"back view", the object wears its face there, too. So it works with any prior that has learnt
views. All numbers are larger where it is worse; `experiments.calibrate_symptoms` chooses the
thresholds and states their errors.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamfusion_jax import draws
from dreamfusion_jax.caches import QUICKLY_COMPILED
from dreamfusion_jax.distillation.protocol import add_noise
from dreamfusion_jax.kept import kept
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, predict
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import Camera, from_angles, look_at, orbit
from dreamfusion_jax.scene.lighting import LIGHT_GREY
from dreamfusion_jax.scene.views import VIEWS, view_index

_AROUND = 8
_ELEVATION, _DISTANCE, _FOCAL = math.radians(20.0), 1.3, 1.1
_AWAY = tuple(math.radians(angle) for angle in (90.0, 270.0, 150.0, 180.0, 210.0))
"""Azimuths from which no face should be seen: two sides, then three of the back."""
_SIDES = 2
_TIMES = (0.35, 0.5, 0.65, 0.8)
"""Diffusion times at which the prior is asked: enough noise to doubt, not enough to forget."""


@dataclasses.dataclass(frozen=True)
class Symptoms:
    """What a scene suffers from; larger is worse.

    Attributes:
        emptiness: 1 - the mean opacity of the views.
        fog: Share of the opacity that is neither clear nor solid, sum o (1 - o) / sum o; or the
            mean opacity along the edges of the views, if that is larger.
        flatness: 1 - smallest over largest silhouette of eight azimuths: a card has 1.
        faces: By how much "front view" explains sides or back better than their own words, as
            a share of the prior's squared error; None where no prior was asked.
    """

    emptiness: float
    fog: float
    flatness: float
    faces: float | None = None


THRESHOLDS = Symptoms(emptiness=0.985, fog=0.25, flatness=0.72, faces=0.01)
"""Above these something is wrong; see docs/results for how often they are mistaken."""

_WORDS = {
    "emptiness": "the scene is (nearly) empty",
    "fog": "the scene is fog, or fills the frame",
    "flatness": "the object is flat",
    "faces": "the object has several faces",
}


def complaints(found: Symptoms, thresholds: Symptoms = THRESHOLDS) -> dict[str, str]:
    """The symptoms above their thresholds, by name, each as a line for people."""
    lines = {}
    for name, words in _WORDS.items():
        value, limit = getattr(found, name), getattr(thresholds, name)
        if value is not None and value > limit:
            lines[name] = f"{words}: {name} {value:.3g} is above {limit:.3g}"
    return lines


def badness(found: Symptoms, thresholds: Symptoms = THRESHOLDS) -> float:
    """One number to compare seeds by: complaints count one each, and what comes near to one less.

    Each symptom adds its share of its threshold, to the fourth power and at most 1, so that
    what is far from a threshold hardly counts.
    """
    total = float(len(complaints(found, thresholds)))
    for name in _WORDS:
        value, limit = getattr(found, name), getattr(thresholds, name)
        if value is not None:
            total += min(max(value / limit, 0.0), 1.0) ** 4
    return total


def shape_symptoms(opacity: Float[Array | np.ndarray, "V H W"]) -> Symptoms:
    """Emptiness, fog and flatness from views evenly around an object."""
    opacity = np.asarray(opacity, np.float64)
    total = opacity.sum()
    haze = float((opacity * (1 - opacity)).sum() / max(total, 1e-9))
    edges = np.concatenate([opacity[:, [0, -1]].ravel(), opacity[:, 1:-1, [0, -1]].ravel()])
    areas = opacity.sum(axis=(1, 2))
    return Symptoms(
        emptiness=1.0 - float(opacity.mean()),
        fog=max(haze, float(edges.mean())),
        flatness=1.0 - float(areas.min() / max(areas.max(), 1e-9)),
    )


def around() -> Camera:
    """[8] cameras from which shapes are looked at."""
    return orbit(_AROUND, _ELEVATION, _DISTANCE, _FOCAL)


@jax.jit
def away() -> Camera:
    """[5] cameras from which no face should be seen: two sides, three of the back."""
    azimuth = jnp.array(_AWAY)
    elevation, distance = (jnp.full_like(azimuth, x) for x in (_ELEVATION, _DISTANCE))
    position = from_angles(azimuth, elevation, distance)
    up = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), position.shape)
    rotation = look_at(position, jnp.zeros_like(position), up)
    return Camera(position, rotation, jnp.full_like(azimuth, _FOCAL))


@jax.jit
def _views_away() -> Int[Array, "5"]:
    """What each of the cameras `away` sees, of `VIEWS`."""
    cameras = away()
    return view_index(cameras.azimuth, cameras.elevation)


def face_margin(
    prior: Prior,
    params: PriorParams,
    pictures: Float[Array | np.ndarray, "5 H W 3"],
    prompt: str,
    seed: int = 0,
) -> float:
    """How much better "front view" explains what the cameras `away` see than their own words.

    (e_own - e_front) / mean(e_own, e_front), e the squared error of the predicted noise, a mean
    over times with the same noise for both; of the sides and of the back, whichever is larger.

    Args:
        prior: The diffusion model.
        params: Its parameters.
        pictures: In [0, 1], of the prior's size.
        prompt: What the object is.
        seed: Of the noise.

    Raises:
        ValueError: The prior cannot read the prompt.
    """
    own = [VIEWS[i] for i in np.asarray(_views_away())]
    words = prior.encode_text(params, [f"{prompt}, {view}" for view in (*own, VIEWS[0])])
    errors = np.asarray(
        _errors(prior, params, jnp.asarray(pictures), words, jax.random.key(seed)), np.float64
    )
    margins = (errors[0] - errors[1]) / errors.mean(axis=0)
    return float(max(margins[:_SIDES].mean(), margins[_SIDES:].mean()))


@kept("prior", compiler_options=QUICKLY_COMPILED)
def _errors(
    prior: Prior, params: PriorParams, pictures: Array, words: Any, key: Array
) -> Float[Array, "2 5"]:
    """Squared errors of the noise predicted with a picture's own words, and with the front's."""
    z = prior.encode_image(params, pictures)
    own = jax.tree.map(lambda leaf: leaf[:-1], words)
    front = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[-1], leaf[:-1].shape), words)

    def ask(time_and_key: tuple[Array, Array]) -> Array:
        time, noise = time_and_key
        t = jnp.full(z.shape[0], time)
        noised = add_noise(prior.schedule, z, draws.normal(noise, z.shape), t)
        eps = predict(prior, params, noised.z_t, t, Condition(own, front))
        axes = tuple(range(1, z.ndim))
        both = (eps.conditional, eps.unconditional)
        return jnp.stack([jnp.mean((e - noised.eps) ** 2, axis=axes) for e in both])

    keys = jax.random.split(key, len(_TIMES))
    return jax.lax.map(ask, (jnp.array(_TIMES), keys)).mean(axis=0)


def examine(scene: TrainedScene, size: int = 32) -> Symptoms:
    """Emptiness, fog and flatness of a scene, from eight small views."""
    return shape_symptoms(scene.look(around(), size=size, backdrop=LIGHT_GREY).opacity[..., 0])


def examine_faces(
    scene: TrainedScene, prior: Prior, params: PriorParams, prompt: str
) -> float | None:
    """`face_margin` of a scene; None where it cannot be asked for.

    A scene of latents has no pictures to show a prior, and a prior that looks at several sides
    together is told by poses which they are, not by words.
    """
    if scene.model.latent or prior.group > 1:
        return None
    looks = scene.look(away(), size=prior.image_size, backdrop=LIGHT_GREY)
    return face_margin(prior, params, looks.colour, prompt)

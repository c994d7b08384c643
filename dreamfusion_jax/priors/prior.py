"""What score distillation asks of a diffusion model, and classifier-free guidance.

Every prior, embedded or pretrained, is used through the protocol `Prior`.

Embeddings are pytrees, and `Prior.condition` sees all views of a step at once. So SDXL is a
prior whose `encode_text` returns a dict with the words of both encoders and the pooled vector.
MVDream (2308.16512) is one whose `condition` adds each camera's pose to the embedding, and whose
`group` tells the training step that four views belong together. Perp-Neg (2304.04968) is
a part of `Condition`, the texts of other views with a weight for each, which `guide` asks about
as well.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.maths import expand_to, from_symmetric, to_symmetric
from dreamfusion_jax.priors.prompts import (
    PromptConfig,
    Text,
    negatives_for,
    text_for,
    view_prompts,
)
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.lighting import Lighting, plain_albedo

PriorParams = Any


@pytree
class View:
    """What a rendered view was made with; some priors need more of it than the camera.

    Attributes:
        camera: [V] cameras.
        lighting: [V] lights.
        backdrop: Plain background of each view: a colour, or a latent where scenes are of latents.
        plain: Whether the backdrop stands in the place of a background that the scene has of its
            own; None for no view.
    """

    camera: Camera
    lighting: Lighting
    backdrop: Float[Array, "V C"]
    plain: Bool[Array, "V"] | None = None

    @classmethod
    def unlit(cls, camera: Camera, grey: float) -> "View":
        """Views of [V] cameras without shading, before a grey backdrop."""
        count = camera.focal.shape[0]
        return cls(camera, plain_albedo(count), jnp.full((count, 3), grey))


@pytree
class Condition:
    """What the noise prediction of each view is conditioned on: pytrees, views leading.

    Attributes:
        conditional: Embedding of the prompt.
        unconditional: Embedding of the empty or negative prompt.
        negatives: Embeddings of what each view should not show; see `away_from`.
        weights: How much each of them counts in each view.
    """

    conditional: PyTree[Shaped[Array, "V ..."]]
    unconditional: PyTree[Shaped[Array, "V ..."]]
    negatives: tuple[PyTree[Shaped[Array, "V ..."]], ...] = ()
    weights: tuple[Float[Array, "V"], ...] = ()

    @property
    def views(self) -> int:
        """V."""
        return jax.tree.leaves(self.conditional)[0].shape[0]


@pytree
class Predictions:
    """Noise predicted with and without the prompt, float32.

    Attributes:
        conditional: eps(z_t; y, t).
        unconditional: eps(z_t; t).
        negatives: eps(z_t; y_i, t) of each negative text.
    """

    conditional: Float[Array, "V h w C"]
    unconditional: Float[Array, "V h w C"]
    negatives: tuple[Float[Array, "V h w C"], ...] = ()


@runtime_checkable
class Prior(Protocol):
    """A text-conditioned diffusion model of images.

    Attributes:
        bounded: Whether z_0 lies in [-1, 1]: scaled pixels do, an autoencoder's latents do not.
    """

    bounded: ClassVar[bool]

    @property
    def group(self) -> int:
        """How many neighbouring views it looks at together, from cameras evenly around: 1, or 4."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """Its noise schedule."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of the images it is asked about, pixels."""
        ...

    def resized(self, size: int) -> "Prior":
        """The same model, asked about images of another height and width.

        Raises:
            ValueError: Its images have one size, or the size is out of its range.
        """
        ...

    def encode_text(
        self, params: PriorParams, prompts: Sequence[str]
    ) -> PyTree[Shaped[Array, "P ..."]]:
        """Embeddings of prompts: a pytree, with the prompts along every leaf's leading axis."""
        ...

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W K"]
    ) -> Float[Array, "V h w C"]:
        """z_0 of images in [0, 1], or of a latent scene's renderings; differentiable."""
        ...

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V h w C"]
    ) -> Float[Array, "V H W 3"]:
        """Images in [0, 1] of z_0, for looking at."""
        ...

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """The condition of each view, made in sight of all views of the step."""
        ...

    def predict_eps(
        self,
        params: PriorParams,
        z: Float[Array, "V h w C"],
        t: Float[Array, "V"],
        embedding: PyTree[Shaped[Array, "V ..."]],
    ) -> Float[Array, "V h w C"]:
        """The noise in z_t, as the embedding tells it."""
        ...


def text_condition(text: Text, view: View, config: PromptConfig) -> Condition:
    """The condition of a prior that reads text: each camera's embedding, and the empty one."""
    conditional = text_for(text, view.camera, config)

    def everywhere(one: PyTree) -> PyTree:
        return jax.tree.map(lambda x, full: jnp.broadcast_to(x, full.shape), one, conditional)

    negatives, weights = negatives_for(text, view.camera, config)
    return Condition(
        conditional, everywhere(text.unconditional), tuple(map(everywhere, negatives)), weights
    )


def predict(
    prior: Prior,
    params: PriorParams,
    z: Float[Array, "V h w C"],
    t: Float[Array, "V"],
    condition: Condition,
) -> Predictions:
    """All predictions, with and without the prompt, from one evaluation of a larger batch.

    Args:
        prior: The model.
        params: Its parameters.
        z: Noised images.
        t: Times in [0, 1].
        condition: Prompt, empty prompt, and negative ones.
    """
    texts = (condition.conditional, condition.unconditional, *condition.negatives)
    count = len(texts)
    embedding = jax.tree.map(lambda *parts: jnp.concatenate(parts), *texts)
    eps = prior.predict_eps(params, jnp.tile(z, (count, 1, 1, 1)), jnp.tile(t, count), embedding)
    conditional, unconditional, *negatives = jnp.split(eps, count)
    return Predictions(conditional, unconditional, tuple(negatives))


def guide(
    prior: Prior,
    params: PriorParams,
    z: Float[Array, "V h w C"],
    t: Float[Array, "V"],
    condition: Condition,
    guidance_weight: float,
) -> Float[Array, "V h w C"]:
    """(1 + omega) eps(z; y, t) - omega eps(z; t) (classifier-free guidance, 2207.12598, eq. 6).

    With negative texts, (1 + omega) times what `away_from` gives is added to it.

    Args:
        prior: The model.
        params: Its parameters.
        z: Noised images.
        t: Times in [0, 1].
        condition: Prompt and empty prompt, of which the latter is not asked about if omega is 0.
        guidance_weight: omega of the paper; diffusers' scale is 1 + omega.
    """
    if guidance_weight == 0.0:
        return prior.predict_eps(params, z, t, condition.conditional)
    return combine(predict(prior, params, z, t, condition), condition, guidance_weight)


def combine(
    eps: Predictions, condition: Condition, guidance_weight: float
) -> Float[Array, "V h w C"]:
    """What `guide` makes of the predictions."""
    guided = eps.conditional + guidance_weight * (eps.conditional - eps.unconditional)
    if not eps.negatives:
        return guided
    return guided + (1.0 + guidance_weight) * away_from(eps, condition.weights)


def away_from(eps: Predictions, weights: tuple[Float[Array, "V"], ...]) -> Float[Array, "V h w C"]:
    """-sum_i w_i e_i, e_i what is perpendicular in a negative text's direction (Perp-Neg, eq. 6).

    Directions are differences to the prediction without a prompt (2304.04968). Of a negative
    one only the part that is perpendicular to the prompt's is taken, so that what both texts have
    in common, the object, is not taken away.
    """
    towards = eps.conditional - eps.unconditional
    # A vanishing direction has no part along it.
    length = jnp.maximum(jnp.sum(towards**2, axis=(1, 2, 3), keepdims=True), 1e-6)
    total = jnp.zeros_like(towards)
    for negative, weight in zip(eps.negatives, weights, strict=True):
        direction = negative - eps.unconditional
        along = jnp.sum(direction * towards, axis=(1, 2, 3), keepdims=True) / length
        total = total - expand_to(weight, towards.ndim) * (direction - along * towards)
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianPrior:
    """The exact noise prediction for images distributed as N(mean, std^2 I).

    E[eps | z_t] = sigma_t (z_t - alpha_t mean) / (alpha_t^2 std^2 + sigma_t^2). The mean
    is the "embedding", so any prompt-like dependence can be tested in closed form. Pixels
    in [0, 1] are scaled to [-1, 1], as pixel priors do.

    Attributes:
        schedule: Noise schedule.
        std: Spread of the images; 0 knows the image exactly.
        image_size: Height and width, pixels.
        group: See `Prior`.
    """

    schedule: NoiseSchedule
    std: float = 0.0
    image_size: int = 64
    group: int = 1
    bounded: ClassVar[bool] = True

    def resized(self, size: int) -> "GaussianPrior":
        """Any size will do."""
        return dataclasses.replace(self, image_size=size)

    def encode_text(self, params: PriorParams, prompts: Sequence[str]) -> Float[Array, "P 1 1"]:
        """A mean of zero for every prompt."""
        del params
        return jnp.zeros((len(prompts), 1, 1))

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W C"]
    ) -> Float[Array, "V H W C"]:
        """Pixels scaled to [-1, 1]."""
        del params
        return to_symmetric(image)

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V H W C"]
    ) -> Float[Array, "V H W C"]:
        """Pixels scaled back to [0, 1]."""
        del params
        return from_symmetric(z)

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """As any prior that reads text."""
        return text_condition(text, view, config)

    def predict_eps(
        self,
        params: PriorParams,
        z: Float[Array, "V h w C"],
        t: Float[Array, "V"],
        embedding: Float[Array, "V ..."],
    ) -> Float[Array, "V h w C"]:
        """The posterior mean of the noise; `embedding` broadcasts as the mean image."""
        del params
        mean = expand_to(embedding, z.ndim)
        alpha, sigma = (expand_to(f(t), z.ndim) for f in (self.schedule.alpha, self.schedule.sigma))
        return sigma * (z - alpha * mean) / (alpha**2 * self.std**2 + sigma**2)


def encode_prompts(
    prior: Prior, params: PriorParams, prompt: str, config: PromptConfig, negative: str = ""
) -> Text:
    """Encodes all the texts of a run, once, before the loop.

    Args:
        prior: Whose text encoder to use.
        params: Its parameters.
        prompt: What to make.
        config: Which views are appended to it.
        negative: What to steer away from; empty for plain guidance.
    """
    return encode_with(functools.partial(prior.encode_text, params), prompt, config, negative)


def encode_with(
    encode: Callable[[Sequence[str]], Any], prompt: str, config: PromptConfig, negative: str = ""
) -> Text:
    """`encode_prompts` with a function from texts to their embeddings in the prior's place."""
    views = view_prompts(prompt, config)
    encoded = encode([*views, prompt, negative])
    several, plain, empty = (
        jax.tree.map(lambda leaf, at=at: leaf[at], encoded) for at in (slice(len(views)), -2, -1)
    )
    return Text(views=several, plain=plain, unconditional=empty)

"""Pictures from a prior: sampling with classifier-free guidance, with or without added noise."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dreamfusion_jax import draws
from dreamfusion_jax.flops import product_flops
from dreamfusion_jax.priors.opened import OpenedPrior
from dreamfusion_jax.priors.prior import (
    Condition,
    Prior,
    PriorParams,
    View,
    encode_with,
    guide,
)
from dreamfusion_jax.priors.prompts import PromptConfig
from dreamfusion_jax.scene.camera import orbit

Solver = Literal["ddim", "dpm++"]
"""DDIM (2010.02502), or DPM-Solver++(2M) (2211.01095, algorithm 2), which has the same pictures
after a third of the steps."""


_ELEVATION = math.radians(15.0)


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """How pictures are drawn: what the loop over the steps asks for; see `sample`."""

    prior: Prior
    steps: int
    guidance_weight: float
    clip_denoised: bool
    eta: float
    solver: Solver

    def times(self) -> Float[Array, "steps"]:
        """Times t, falling; at the last one the denoised picture is the result."""
        total = self.prior.schedule.alphas_cumprod.shape[0]
        if self.solver == "ddim":
            index = jnp.linspace(total - 1, 0, self.steps)
        else:
            index = jnp.linspace(total - 1, 0, self.steps + 1)[:-1]
        # The middle of an interval of the schedule is safe from rounding to its neighbour.
        return (jnp.round(index) + 0.5) / total

    def shape(self, params: PriorParams, views: int) -> tuple[int, ...]:
        """Of z_t."""
        size = self.prior.image_size
        blank = jax.ShapeDtypeStruct((views, size, size, 3), jnp.float32)
        return jax.eval_shape(self.prior.encode_image, params, blank).shape

    def denoise(
        self, params: PriorParams, condition: Condition, z: Float[Array, "V h w C"], t: Array
    ) -> tuple[Float[Array, "V h w C"], Float[Array, "V h w C"]]:
        """x_hat and eps_hat of z_t."""
        prior, schedule = self.prior, self.prior.schedule
        t = jnp.full(condition.views, t)
        eps = guide(prior, params, z, t, condition, self.guidance_weight).astype(jnp.float32)
        x = schedule.x_from_eps(eps, z, t)
        if self.clip_denoised and prior.bounded:
            bound = schedule.thresholding or (lambda x: jnp.clip(x, -1.0, 1.0))
            x = bound(x)
            eps = schedule.eps_from_x(x, z, t)
        return x, eps

    def step(
        self,
        i: Int[Array, ""] | int,
        carry: tuple[Array, Array],
        key: Key[Array, ""],
        params: PriorParams,
        condition: Condition,
    ) -> tuple[Float[Array, "V h w C"], Float[Array, "V h w C"]]:
        """From z at the i-th time, and x_hat of the time before, to the next ones."""
        (z, before), times = carry, self.times()
        x, eps = self.denoise(params, condition, z, times[i])
        if self.solver == "dpm++":
            return self._second_order(i, z, x, before), x
        if self.eta == 0.0:
            return self.prior.schedule.add_noise(x, eps, jnp.full(len(x), times[i + 1])), x
        schedule = self.prior.schedule
        alpha, sigma = (f(times[i + 1]) for f in (schedule.alpha, schedule.sigma))
        share = 1.0 - (schedule.alpha(times[i]) / alpha) ** 2
        added = self.eta * sigma / schedule.sigma(times[i]) * jnp.sqrt(share)
        fresh = draws.normal(jax.random.fold_in(key, i + 1), z.shape)
        return alpha * x + jnp.sqrt(sigma**2 - added**2) * eps + added * fresh, x

    def _second_order(
        self, i: Int[Array, ""] | int, z: Array, x: Array, before: Array
    ) -> Float[Array, "V h w C"]:
        """x_hat is extrapolated along lambda = log(alpha / sigma); the first step cannot be."""
        times = self.times()
        alphas, sigmas = self.prior.schedule.alpha(times), self.prior.schedule.sigma(times)
        levels = jnp.log(alphas / sigmas)
        length, last = levels[i + 1] - levels[i], levels[i] - levels[jnp.maximum(i - 1, 0)]
        # The first step has none before it; nor has the second of two at the same time.
        share = jnp.where(last > 0.0, 0.5 * length / jnp.where(last > 0.0, last, 1.0), 0.0)
        slope = share * (x - before)
        return sigmas[i + 1] / sigmas[i] * z - alphas[i + 1] * jnp.expm1(-length) * (x + slope)

    def finish(
        self, z: Float[Array, "V h w C"], params: PriorParams, condition: Condition
    ) -> Float[Array, "V H W 3"]:
        """Pictures of z at the last time."""
        x, _ = self.denoise(params, condition, z, self.times()[-1])
        return jnp.clip(self.prior.decode_image(params, x), 0.0, 1.0)


@functools.partial(jax.jit, static_argnames="how")
def _at_once(
    z: Array, key: Key[Array, ""], params: PriorParams, condition: Condition, *, how: _Sampling
) -> Array:
    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return how.step(i, carry, key, params, condition)

    z, _ = jax.lax.fori_loop(0, how.steps - 1, step, (z, jnp.zeros_like(z)))
    return how.finish(z, params, condition)


_step = jax.jit(_Sampling.step, static_argnums=0)
_finish = jax.jit(_Sampling.finish, static_argnums=0)


def sample(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    condition: Condition,
    *,
    steps: int = 50,
    guidance_weight: float = 3.0,
    clip_denoised: bool = True,
    eta: float = 0.0,
    solver: Solver = "ddim",
    progress: Callable[[], None] | None = None,
    together: int | None = None,
) -> Float[Array, "V H W 3"]:
    """Denoises Gaussian noise step by step (2010.02502, eq. 12 and 16).

    z_s = alpha_s x_hat + (sigma_s^2 - n_s^2)^(1/2) eps_hat + n_s noise, from the predictions at
    z_t, for evenly spaced times t > s, with the added noise n_s = eta sigma_s / sigma_t
    (1 - alpha_t^2 / alpha_s^2)^(1/2); the last x_hat is the picture.

    Args:
        key: Random key of the initial noise.
        prior: The diffusion model.
        params: Its parameters.
        condition: What each of V pictures shows.
        steps: Evaluations of the model.
        guidance_weight: omega of classifier-free guidance.
        clip_denoised: Keeps x_hat within [-1, 1] at every step, if the prior's z_0 is bounded: by
            dynamic thresholding where its schedule says so, else by clipping.
        eta: 0 adds no noise (DDIM), 1 as much as ancestral sampling (DDPM).
        solver: The formula of a step.
        progress: Called after every step, which is then a program of its own.
        together: Most pictures at once, where memory is short; None for all.

    Returns:
        Pictures in [0, 1].

    Raises:
        ValueError: Noise is to be added by another solver than DDIM, or pictures that belong
            together are not to be drawn together.
    """
    if together is not None and together % prior.group:
        raise ValueError(f"pictures are drawn in groups of {prior.group}, not {together} together")
    if eta != 0.0 and solver != "ddim":
        raise ValueError(f"only the solver ddim adds noise, not {solver}")
    how = _Sampling(prior, steps, guidance_weight, clip_denoised, eta, solver)
    noise = draws.normal(key, how.shape(params, condition.views))
    together = together or condition.views
    parts = []
    for first in range(0, condition.views, together):
        part = slice(first, first + together)
        own = key if first == 0 else jax.random.fold_in(key, 2**31 - first)
        told = jax.tree.map(lambda leaf, part=part: leaf[part], condition)
        parts.append(_draw(noise[part], own, params, told, how, progress))
    return jnp.concatenate(parts)


def _draw(
    z: Array,
    key: Key[Array, ""],
    params: PriorParams,
    condition: Condition,
    how: _Sampling,
    progress: Callable[[], None] | None,
) -> Array:
    if progress is None:
        return _at_once(z, key, params, condition, how=how)
    carry = z, jnp.zeros_like(z)
    for i in range(how.steps - 1):
        carry = _step(how, jnp.asarray(i), carry, key, params, condition)
        jax.block_until_ready(carry)
        progress()
    pictures = _finish(how, carry[0], params, condition).block_until_ready()
    progress()
    return pictures


def sample_texts(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    texts: Sequence[str],
    *,
    negative: str = "",
    **options: Any,
) -> Float[Array, "P H W 3"]:
    """One picture of each text, away from the negative one; see `sample` for the options.

    Raises:
        ValueError: The prior cannot read a text.
    """
    condition = condition_of(prior, params, texts, negative)
    return sample(key, prior, params, condition, **options)


def condition_of(
    prior: Prior, params: PriorParams, texts: Sequence[str], negative: str = ""
) -> Condition:
    """The condition of one picture of each text, away from the negative one.

    A prior that looks at several sides together (`Prior.group`) draws these of each text: from
    azimuth 0 around the object, at 15 degrees of elevation, in the middle of what MVDream knows.

    Raises:
        ValueError: The prior cannot read a text.
    """
    return _condition(prior, functools.partial(prior.encode_text, params), texts, negative)


def _condition(
    prior: Prior, encode: Callable[[Sequence[str]], Any], texts: Sequence[str], negative: str
) -> Condition:
    if prior.group > 1:
        around = View.unlit(orbit(prior.group, _ELEVATION, 1.0, 1.0), grey=0.5)
        plain = PromptConfig(views="none")
        encoded = (encode_with(encode, text, plain, negative) for text in texts)
        parts = [prior.condition(text, around, plain) for text in encoded]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    encoded = encode([*texts, negative])
    return Condition(
        jax.tree.map(lambda leaf: leaf[:-1], encoded),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[-1], leaf[:-1].shape), encoded),
    )


def sampling_flops(opened: OpenedPrior, texts: Sequence[str], steps: int) -> float:
    """Floating-point operations of one picture of each text, at least; weights are not needed.

    Args:
        opened: The prior.
        texts: What to draw.
        steps: Evaluations of the model.
    """
    how = _Sampling(opened.prior, steps, 1.0, True, 0.0, "ddim")
    condition = jax.eval_shape(lambda: _condition(opened.prior, opened.embed, texts, ""))
    z = jax.ShapeDtypeStruct(how.shape(opened.shapes, condition.views), jnp.float32)
    t = jax.ShapeDtypeStruct((), jnp.float32)
    return steps * product_flops(jax.make_jaxpr(how.denoise)(opened.shapes, condition, z, t))

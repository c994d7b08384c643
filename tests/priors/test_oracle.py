import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import light

from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.oracle import LatentOraclePrior, OraclePrior
from dreamfusion_jax.priors.prior import Prior, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.scene.camera import orbit
from dreamfusion_jax.toybox.world import COLOURS

PROMPT = "a red car"
NO_TEXT = Text(views=None, plain=None, unconditional=None)


def latent_oracle():
    prior, _ = load_prior("oracle", PROMPT, latent=True)
    assert isinstance(prior, LatentOraclePrior) and isinstance(prior, Prior)
    return prior.resized(32)


def lit_view():
    """Three sides under a lamp, before backdrops of three colours."""
    return View(orbit(3, 0.3, 1.3, 1.1), light((3,)), jnp.eye(3))


def picture(prior, view):
    return prior.decode_image(None, prior.condition(NO_TEXT, view, PromptConfig()).conditional)


def test_latents_of_the_truth_decode_to_its_unlit_picture_before_grey():
    latent = latent_oracle()
    pixels = OraclePrior(latent.schedule, scene=latent.scene, image_size=32)
    seen = picture(latent, lit_view())
    np.testing.assert_allclose(seen, picture(pixels, View.unlit(lit_view().camera, 0.5)), atol=1e-6)
    np.testing.assert_allclose(seen[:, 0, 0], 0.5, atol=1e-6)
    nearest = np.abs(np.asarray(seen) - COLOURS["red"]).max(-1)
    assert (nearest < 0.02).mean() > 0.05  # A car has its colour, whatever the lamp.


def test_the_views_own_latent_stands_behind_the_truth_where_it_is_plain():
    prior = latent_oracle()
    usual = prior.condition(NO_TEXT, lit_view(), PromptConfig()).conditional
    latents = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)
    plain = jnp.array([True, False, True])
    view = dataclasses.replace(lit_view(), backdrop=latents, plain=plain)
    got = prior.condition(NO_TEXT, view, PromptConfig()).conditional
    np.testing.assert_array_equal(got[1], usual[1])
    for side in (0, 2):
        np.testing.assert_allclose(got[side, 0, 0], latents[side], atol=1e-6)
        # The car hides it, and at its edges lets through as much as nothing else takes.
        seen, behind = (got - usual)[side], latents[side][None, None]
        left = jnp.sum(seen * behind, axis=-1) / jnp.sum(behind**2)
        assert 0.05 < float((left < 1e-3).mean()) < 0.5
        assert float(left.min()) > -1e-5 and float(left.max()) < 1 + 1e-5


def test_latents_are_four_unbounded_numbers_that_are_taken_as_they_are():
    prior = latent_oracle()
    z = 3 * jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 4)), jnp.float32)
    assert not prior.bounded
    np.testing.assert_array_equal(prior.encode_image(None, z), z)
    truth = prior.condition(NO_TEXT, lit_view(), PromptConfig()).conditional
    assert truth.shape == (3, 32, 32, 4)
    # White, black and every colour between are as long in latents as in pixels from -1 to 1.
    colours = 2 * prior.decode_image(None, truth) - 1
    np.testing.assert_allclose(
        jnp.sum(truth**2, axis=-1), jnp.sum(colours**2, axis=-1), rtol=1e-5, atol=1e-6
    )


def test_other_priors_without_latents_refuse_them():
    with pytest.raises(ValueError, match="stable-diffusion or oracle, not toybox"):
        load_prior("toybox", PROMPT, latent=True)

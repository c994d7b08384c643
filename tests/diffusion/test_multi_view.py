"""MVDream's UNet against diffusers' of one view, with its two additions written in PyTorch here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.multi_view import FULL, SMALL, WIDTH, as_latent_diffusion, original_unet
from helpers.torch_models import compile_fast, relative_error

from dreamfusion_jax.diffusion.checkpoints.tensors import Tensor, WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import param_shapes, read_params
from dreamfusion_jax.diffusion.multi_view import VIEWS, multi_view_config, multi_view_tensors
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel


@pytest.fixture(scope="module")
def original():
    return original_unet()


def stored(original):
    """Its tensors as a file would have them."""
    arrays = {name: value.numpy() for name, value in as_latent_diffusion(original).items()}
    return {name: Tensor(x.shape, "F32", lambda i, x=x: x[i]) for name, x in arrays.items()}


def load(original):
    config = multi_view_config(SMALL)
    model = UNet2DConditionModel(config)
    tensors = multi_view_tensors("there", stored(original), config)
    return model, read_params("there", tensors, model)


def inputs(groups=2, size=8):
    rng = np.random.default_rng(0)
    views = VIEWS * groups
    z, text = rng.normal(size=(views, size, size, 4)), rng.normal(size=(views, 5, WIDTH))
    times = np.repeat(rng.uniform(0, 999, groups), VIEWS)
    camera = rng.normal(size=(views, 16))
    return [x.astype(np.float32) for x in (z, times, text, camera)]


def test_equals_the_original_on_the_same_weights(original):
    model, params = load(original)
    z, times, text, camera = inputs()
    ours = compile_fast(model.apply)({"params": params}, z, times, text, camera)
    with torch.no_grad():
        theirs = original(
            torch.from_numpy(z).permute(0, 3, 1, 2),
            torch.from_numpy(times),
            torch.from_numpy(text),
            class_labels=torch.from_numpy(camera),
        ).sample.permute(0, 2, 3, 1)
    assert relative_error(ours, theirs) < 1e-4


def test_a_view_is_seen_by_its_own_group_alone(original):
    model, params = load(original)
    z, times, text, camera = inputs()
    run = compile_fast(model.apply)
    before = np.asarray(run({"params": params}, z, times, text, camera))
    z[1] += 1.0
    after = np.asarray(run({"params": params}, z, times, text, camera))
    moved = np.abs(after - before).max(axis=(1, 2, 3))
    assert (moved[:VIEWS] > 1e-3).all() and (moved[VIEWS:] == 0.0).all()


def test_the_published_model_has_stable_diffusions_size_and_an_embedding_of_the_camera():
    def count(config):
        shapes = param_shapes(UNet2DConditionModel(config))
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))

    config = multi_view_config(FULL)
    assert config.attention_head_dim == (5, 10, 20, 20)
    # 865,910,724 is the UNet of Stable Diffusion 2.1.
    assert count(config) == 865_910_724 + (16 + 1) * 1280 + (1280 + 1) * 1280


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ip_dim": 16}, "ip_dim"),
        ({"camera_dim": None}, "camera_dim is missing"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm"),
        ({"magic": 3}, "magic"),
        ({"num_head_channels": 48}, "num_head_channels"),
        ({"num_res_blocks": [1, 2]}, "num_res_blocks"),
    ],
)
def test_options_that_are_not_supported_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        multi_view_config(SMALL | change)


def test_tensors_of_another_model_are_named(original):
    tensors = stored(original)
    tensors["image_embed.latents"] = tensors["out.2.bias"]
    with pytest.raises(WeightsError, match=r"not MVDream's, the first is image_embed\.latents"):
        multi_view_tensors("there", tensors, multi_view_config(SMALL))


def test_cameras_and_groups_are_asked_for(original):
    model, params = load(original)
    z, times, text, camera = map(jnp.asarray, inputs(1))
    with pytest.raises(ValueError, match="cameras go with"):
        model.apply({"params": params}, z, times, text)
    with pytest.raises(ValueError, match="groups of 4, not 3"):
        model.apply({"params": params}, z[:3], times[:3], text[:3], camera[:3])

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.torch_models import compile_fast, relative_error, save_random_toybox
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion_jax.diffusion.checkpoints.weights import WeightsError
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.captions import UnknownWordsError, Vocabulary
from dreamfusion_jax.toybox.tokenizer import build_tokenizer

VOCABULARY = Vocabulary(("mushroom", "ice cream"), ("red", "orange"), ())
CONFIG = architecture.MiniatureConfig(
    image_size=8, channels=(16, 32), attention=(False, True), text_width=16, text_layers=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prior's folder with random weights, written by PyTorch."""
    folder = tmp_path_factory.mktemp("prior")
    architecture.write_configs(folder, CONFIG, VOCABULARY, build_tokenizer())
    save_random_toybox(folder)
    return folder


def test_a_prior_of_pytorch_loads_and_predicts_the_same(folder):
    prior, params = toybox.load(folder)
    assert prior.vocabulary == VOCABULARY and prior.image_size == 8
    prompts = ["an orange ice cream, front left view", "a red mushroom", ""]
    times = np.array([0.1234, 0.6, 0.9994], np.float32)
    z = np.random.default_rng(0).normal(size=(3, 4, 4, 12)).astype(np.float32)

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    ids = CLIPTokenizer.from_pretrained(folder / "tokenizer")(
        prompts, padding="max_length", return_tensors="pt"
    ).input_ids
    index = np.array([123, 600, 999])
    with torch.no_grad():
        states = text(ids).last_hidden_state
        noised = torch.from_numpy(z).permute(0, 3, 1, 2)
        clean = unet(noised, torch.from_numpy(index), states).sample.permute(0, 2, 3, 1).numpy()
    # The cosine schedule by its definition (2102.09672, eq. 17), betas clipped at 0.999.
    level = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))[index, None, None, None]
    expected = (z - np.sqrt(kept) * clean) / np.sqrt(1 - kept)

    embedding = prior.encode_text(params, prompts)
    assert relative_error(embedding, states.numpy()) < 1e-4
    predict = compile_fast(prior.predict_eps)
    eps = predict(params, jnp.asarray(z), jnp.asarray(times), embedding)
    assert relative_error(eps, expected) < 1e-4
    for one in range(3):
        assert relative_error(eps[one], expected[one]) < 1e-3


@pytest.mark.parametrize("block", [2, 4])
def test_space_to_depth_is_an_orthonormal_stack_of_squares(block):
    image = np.random.default_rng(0).uniform(size=(2, 3 * block, 2 * block, 3))
    image = image.astype(np.float32)
    z = np.asarray(architecture.space_to_depth(jnp.asarray(image), block))
    assert z.shape == (2, 3, 2, 3 * block**2)
    for row, column in np.ndindex(3, 2):
        rows, columns = (slice(block * at, block * (at + 1)) for at in (row, column))
        square = image[:, rows, columns]
        np.testing.assert_array_equal(z[:, row, column], square.reshape(2, -1))
    np.testing.assert_array_equal(architecture.depth_to_space(jnp.asarray(z), block), image)
    assert np.sum(z**2) == pytest.approx(np.sum(image**2))


def test_the_size_of_the_squares_is_kept_in_the_folder(tmp_path):
    config = dataclasses.replace(CONFIG, block=4, image_size=16, time_width=32)
    architecture.write_configs(tmp_path, config, VOCABULARY, build_tokenizer())
    save_random_toybox(tmp_path)
    prior, params = toybox.load(tmp_path)
    assert (prior.block, prior.image_size) == (4, 16)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 16, 16, 3)), jnp.float32)
    z = prior.encode_image(params, image)
    assert z.shape == (1, 4, 4, 48)
    np.testing.assert_allclose(prior.decode_image(params, z), image, atol=1e-6)
    # Folders of before say nothing: their squares are of 2.
    known = architecture.read_json(tmp_path / "toybox.json")
    assert known.pop("block") == 4
    (tmp_path / "toybox.json").write_text(json.dumps(known))
    assert toybox.load(tmp_path)[0].block == 2


def test_images_are_encoded_to_unit_range_and_decoded_back(folder):
    prior, params = toybox.load(folder)
    image = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 8, 8, 3)), jnp.float32)
    z = prior.encode_image(params, image)
    np.testing.assert_allclose(prior.decode_image(params, z), image, atol=1e-6)
    for value, expected in ((0.0, -1.0), (1.0, 1.0)):
        assert jnp.all(prior.encode_image(params, jnp.full((1, 8, 8, 3), value)) == expected)
    # dz/dx is twice an orthonormal matrix, so a residual of z is passed on undistorted.
    _, pullback = jax.vjp(lambda x: prior.encode_image(params, x), image)
    gradient = pullback(z)[0]
    np.testing.assert_allclose(gradient, 2 * (2 * image - 1), atol=1e-5)


def test_prompts_and_folders_that_do_not_serve(folder, tmp_path):
    prior, params = toybox.load(folder)
    with pytest.raises(UnknownWordsError, match=r"'mushrom' \(nearest: mushroom\)"):
        prior.encode_text(params, ["a red mushrom"])
    with pytest.raises(UnknownWordsError, match="'blue'"):
        prior.encode_text(params, ["a red mushroom", "a blue mushroom"])
    with pytest.raises(FileNotFoundError, match="holds no toybox prior"):
        toybox.load(tmp_path)
    architecture.write_configs(tmp_path, CONFIG, VOCABULARY, build_tokenizer())
    with pytest.raises(WeightsError, match="unet"):
        toybox.load(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no tokenizer that can be read"):
        toybox.load(tmp_path)

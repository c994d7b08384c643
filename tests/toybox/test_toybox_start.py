"""Weights taken over from another prior: which, and that they mean the same there."""

import numpy as np
import pytest
from helpers.torch_models import save_random_toybox

from dreamfusion_jax.toybox.architecture import MiniatureConfig, write_configs
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.tokenizer import _tokenizer, build_tokenizer, learn_merges
from dreamfusion_jax.toybox.training.start import _spread, read_weights, start_text, start_unet

CONFIG = MiniatureConfig(
    image_size=32,
    block=2,
    channels=(16, 16, 32, 32),
    attention=(False, False, True, False),
    text_width=16,
    text_layers=1,
)


@pytest.fixture(scope="module")
def old_words():
    """A tokenizer of fewer words and shorter texts, with other ids."""
    return _tokenizer(learn_merges({"a", "red", "mushroom", "front", "view"}), 18)


@pytest.fixture(scope="module")
def old_prior(tmp_path_factory, old_words):
    """A prior of 32 x 32 pixels in squares of 2, with random weights: UNet and text encoder."""
    folder = tmp_path_factory.mktemp("old")
    write_configs(folder, CONFIG, Vocabulary(("mushroom",), ("red",), ()), old_words)
    save_random_toybox(folder)
    return read_weights(folder)


def test_words_keep_their_vectors_where_their_ids_change(old_prior, old_words):
    _, old = old_prior
    words = build_tokenizer()
    name = next(n for n in old if n.endswith("token_embedding.weight"))
    position = name.replace("token", "position")
    rng = np.random.default_rng(0)
    fresh = {n: rng.normal(size=x.shape).astype(np.float32) for n, x in old.items()}
    fresh[name] = rng.normal(size=(len(words), old[name].shape[1])).astype(np.float32)
    fresh[position] = rng.normal(size=(32, old[name].shape[1])).astype(np.float32)
    found, taken = start_text(old, fresh, words, old_words)
    now, before = words.get_vocab(), old_words.get_vocab()
    assert now["mushroom</w>"] != before["mushroom</w>"] or now["red</w>"] != before["red</w>"]
    for token in ("mushroom</w>", "red</w>", ",</w>", "<|startoftext|>"):
        np.testing.assert_array_equal(found[name][now[token]], old[name][before[token]])
    at = now["blurry</w>"]
    np.testing.assert_array_equal(found[name][at], fresh[name][at])
    np.testing.assert_array_equal(found[position][:18], old[position])
    np.testing.assert_array_equal(found[position][18:], np.tile(old[position][-1], (14, 1)))
    assert taken < sum(x.size for x in fresh.values())


def test_larger_squares_begin_as_the_average_of_their_pixels():
    """A linear map of squares of 2 x 2 pixels, and the one made of it for squares of 4 x 4."""
    rng = np.random.default_rng(1)
    picture = rng.normal(size=(8, 8, 3))
    halved = picture.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))

    def squares(x, block):
        side = len(x) // block
        return x.reshape(side, block, side, block, 3).swapaxes(1, 2).reshape(side, side, -1)

    inward = rng.normal(size=(5, 12))
    np.testing.assert_allclose(
        squares(picture, 4) @ (_spread(inward, 2, axis=1) / 4).T,
        squares(halved, 2) @ inward.T,
        atol=1e-12,
    )
    outward = _spread(rng.normal(size=(12, 5)), 2, axis=0)
    hidden = rng.normal(size=5)
    repeated = (outward @ hidden).reshape(4, 4, 3)
    np.testing.assert_array_equal(repeated, repeated[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))


def test_one_more_fine_level_leaves_the_coarse_ones_where_they_are(old_prior):
    old, _ = old_prior
    fresh = {f"{name}": np.zeros_like(x) for name, x in old.items() if "down_blocks.3" not in name}
    fresh |= {
        n.replace("blocks.3", "blocks.4"): np.zeros_like(x)
        for n, x in old.items()
        if "down_blocks.3" in n
    }
    fresh |= {
        n.replace("down_blocks.2", "down_blocks.3"): np.zeros_like(x)
        for n, x in old.items()
        if n.startswith("down_blocks.2")
    }
    found, taken = start_unet(old, fresh, block=2, old_block=2)
    name = "down_blocks.{}.resnets.0.conv1.weight"
    np.testing.assert_array_equal(found[name.format(4)], old[name.format(3)])
    np.testing.assert_array_equal(found[name.format(3)], old[name.format(2)])
    middle = "mid_block.resnets.0.conv1.weight"
    np.testing.assert_array_equal(found[middle], old[middle])
    # Level 1 of the old one is level 2 now, where the shapes do not fit; nothing is forced.
    assert (
        not found[name.format(2)].any() or found[name.format(2)].shape == old[name.format(1)].shape
    )
    assert 0 < taken < sum(x.size for x in fresh.values())


def test_a_whole_prior_serves_one_with_larger_squares(old_prior):
    """All of it; the convolutions at both ends are spread."""
    old, _ = old_prior
    fresh = {n: np.zeros_like(x) for n, x in old.items()}
    fresh["conv_in.weight"] = np.zeros((16, 48, 3, 3), np.float32)
    fresh["conv_out.weight"] = np.zeros((48, 16, 3, 3), np.float32)
    fresh["conv_out.bias"] = np.zeros(48, np.float32)
    found, taken = start_unet(old, fresh, block=4, old_block=2)
    assert taken == sum(x.size for x in fresh.values())
    assert found["conv_in.weight"].sum() == pytest.approx(old["conv_in.weight"].sum(), rel=1e-4)

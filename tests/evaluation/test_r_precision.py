"""R-Precision by hand, with CLIP against transformers, and with the judge of the toy world."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.programs import command
from helpers.text_checkpoints import CLIP_WORDS
from helpers.tiny_run import open_run
from helpers.torch_models import randomize
from PIL import Image

from dreamfusion_jax.evaluation import caption_judge
from dreamfusion_jax.evaluation.caption_judge import JudgeScorer, load_scorer, shape_of
from dreamfusion_jax.evaluation.clip_score import Preprocessing, load_clip
from dreamfusion_jax.evaluation.judge import Judge, JudgeConfig, save_judge
from dreamfusion_jax.evaluation.r_precision import (
    Pictures,
    Subject,
    ViewingConfig,
    hits,
    picture,
    places,
    precision,
    retrieve,
    true_pictures,
)
from dreamfusion_jax.looks.media import to_uint8
from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.toybox.captions import caption
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.world import Scene
from experiments.r_precision import main

CAPTIONS = ["a grey thing", "a red car", "a blue duck on a white pedestal", "a green chair"]
VIEWS = ViewingConfig(azimuths=3, size=20)
# The words of CAPTIONS that the little tokenizer lacks are spelt letter by letter.
LENGTH = 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint with random weights, saved by transformers."""
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    config = transformers.CLIPConfig(
        text_config=small
        | {"vocab_size": len(build_tokenizer()), "max_position_embeddings": LENGTH}
        | {"bos_token_id": 0, "eos_token_id": 1},
        vision_config=small | {"image_size": 48, "patch_size": 16},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    randomize(model)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


def _processor() -> transformers.CLIPImageProcessorPil:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 52}, crop_size={"height": 48, "width": 48}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained to its end."""
    folder = tmp_path_factory.mktemp("runs") / "thing"
    with open_run(folder) as run:
        run.train()
    return folder


@pytest.fixture(scope="module")
def drawn() -> dict[str, Pictures]:
    """True pictures of three objects."""
    scenes = (Scene("car", "red"), Scene("chair", "green"), Scene("mushroom", "red"))
    return {
        caption(scene): true_pictures(scene, ViewingConfig(azimuths=6, size=32)) for scene in scenes
    }


def _by_transformers(
    folder: Path, pictures: np.ndarray, captions: Sequence[str] = CAPTIONS
) -> np.ndarray:
    """Cosines of pictures and captions, all of it computed by transformers and PyTorch."""
    model = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    images = [Image.fromarray(image) for image in to_uint8(pictures)]
    words = tokenizer(list(captions), padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**words, pixel_values=processor(images, return_tensors="pt")["pixel_values"])
    return (output.logits_per_image / model.logit_scale.exp()).detach().numpy()


def test_similarities_and_precision_equal_transformers(
    clip: Path, finished: Path, tmp_path: Path
) -> None:
    """The program's number, on its own renders, is the one that PyTorch arrives at."""
    (tmp_path / "captions.txt").write_text("\n\n".join(CAPTIONS) + "\n")
    options = ["--clip", clip, "--captions", tmp_path / "captions.txt", "--azimuths", "3"]
    options += ["--size", "20", "--output", tmp_path / "out"]
    result = command("r_precision", "--runs", finished, *options)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out" / "precision.json").read_text())["rows"]
    assert [row["scorer"] for row in rows] == ["tiny-clip"] * 2
    assert all(row["truth"] is None and row["captions"] == 4 for row in rows)
    views = picture(load_finished(finished)[1], VIEWS)
    for row, kind in zip(rows, ("colour", "textureless"), strict=True):
        theirs = _by_transformers(clip, views[kind])
        ours = load_clip(clip)(views[kind], CAPTIONS)
        assert np.abs(ours - theirs).max() < 1e-4
        assert np.ptp(theirs) > 0.05  # Captions and views differ by more than the bound.
        assert row["objects"]["value"] == pytest.approx((theirs.argmax(axis=1) == 0).mean())
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in result.stdout and "| tiny-clip | colour |" in table


def test_many_renders_are_ranked_as_by_transformers(clip: Path, drawn: dict[str, Pictures]) -> None:
    """More pictures than a batch, of true objects."""
    captions = [*drawn, *CAPTIONS[2:3]]
    pictures = np.concatenate([views["colour"] for views in drawn.values()])
    theirs = _by_transformers(clip, pictures, captions).reshape(3, 6, 4)
    subjects = [Subject(text, 0, views, views) for text, views in drawn.items()]
    row = retrieve(subjects, "colour", load_clip(clip), captions)
    expected = np.mean(theirs.argmax(axis=-1) == np.arange(3)[:, None])
    assert row.objects.value == pytest.approx(expected)
    assert row.truth is not None and row.truth.value == row.objects.value


@pytest.mark.parametrize("shape", [(20, 20), (37, 23), (24, 61), (300, 200)])
def test_preprocessing_is_exactly_that_of_transformers(shape: tuple[int, int]) -> None:
    pictures = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    images = [Image.fromarray(image) for image in to_uint8(pictures)]
    theirs = np.stack(_processor()(images)["pixel_values"]).transpose(0, 2, 3, 1)
    ours = Preprocessing.from_json(_processor().to_dict())(pictures)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_hits_by_hand() -> None:
    scores = np.array([[[0.1, 0.3, 0.2], [0.5, 0.5, 0.1]], [[0.2, 0.2, 0.2], [0.0, 0.1, 0.9]]])
    expected = [[1.0, 0.5], [1 / 3, 1.0]]
    np.testing.assert_allclose(hits(scores, np.array([1, 2])), expected)


def test_captions_drawn_at_random_score_at_chance() -> None:
    """Also where every object's own caption is found."""
    objects, views, captions = 24, 4, 40
    right = np.arange(objects)
    scores = np.random.default_rng(0).random((objects, views, captions))
    scores[right, :, right] += 2.0
    found = precision(scores, right)
    assert found.value == found.low == found.high == 1.0
    # The mean of 10,000 draws of 24 captions is within 4 standard errors of 1/40.
    assert found.shuffled == pytest.approx(1 / captions, abs=4 * math.sqrt(1 / 40 / 24 / 10_000))
    assert found.shuffled_low == 0.0 and found.shuffled_high <= 4 / objects


def test_the_interval_covers_and_counts_prompts_not_seeds() -> None:
    """Prompts succeed with probability 0.7, and both their seeds with them."""
    rng = np.random.default_rng(1)
    right, covered, widths = np.repeat(np.arange(30), 2), 0, []
    for trial in range(100):
        scores = np.zeros((60, 1, 30))
        good = np.repeat(rng.random(30) < 0.7, 2)
        scores[np.arange(60), 0, np.where(good, right, (right + 1) % 30)] = 1.0
        found = precision(scores, right, seed=trial)
        covered += found.low <= 0.7 <= found.high
        widths.append(found.high - found.low)
    assert covered >= 88  # 95 of 100, less 3.5 standard deviations.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 30), rel=0.1)


def test_prompts_are_found_however_they_are_punctuated() -> None:
    assert list(places(["A red  car."], CAPTIONS)) == [1]
    with pytest.raises(ValueError, match="'a pink car' is not among the 4"):
        places(["a pink car"], CAPTIONS)
    with pytest.raises(ValueError, match="none twice"):
        places([], ["a red car", "A red car."])


def test_true_pictures_are_the_object_and_textureless_ones_have_no_colour(
    drawn: dict[str, Pictures],
) -> None:
    views = drawn["a red mushroom"]
    seen = np.abs(views["colour"] - np.array([0.85, 0.10, 0.10])).max(axis=-1) < 1e-3
    assert seen.mean() > 0.05  # Its red cap.
    assert np.ptp(views["textureless"], axis=-1).max() < 1e-6
    ratio = (views["shaded"] / views["colour"])[seen]
    np.testing.assert_allclose(views["textureless"][seen], ratio, atol=1e-3)
    assert np.ptp(ratio) > 0.2
    assert all(np.allclose(images[:, 0, 0], 0.85) for images in views.values())


def _small(**changes) -> tuple[JudgeScorer, np.ndarray]:
    config = JudgeConfig(("apple", "car"), ("red", "green"), 16, (8, 8), 8, **changes)
    judge = Judge(config)
    params = judge.init(jax.random.key(3))
    return JudgeScorer(judge, params), np.random.default_rng(0).random((18, 16, 16, 3), np.float32)


def test_a_judge_of_classes_multiplies_their_probabilities() -> None:
    modifiers = ("on a {} pedestal", "wearing a {} top hat")
    scorer, pictures = _small(modifiers=modifiers)
    said = scorer.judge(scorer.params, jnp.asarray(pictures))
    captions = [*scorer.captions(), "a red car wearing a green top hat"]
    assert captions[:2] == ["a red apple", "a green apple"] and len(captions) == 5
    log = {name: np.asarray(jax.nn.log_softmax(getattr(said, name))) for name in said.__dict__}
    ours = scorer(pictures, captions)
    plain = log["category"][:, 1] + log["colour"][:, 0]
    np.testing.assert_allclose(ours[:, 2], plain + log["modifier"][:, 0], rtol=1e-5)
    hat = plain + log["modifier"][:, 2] + log["modifier_colour"][:, 1]
    np.testing.assert_allclose(ours[:, 4], hat, rtol=1e-5)
    shapes = scorer(pictures, scorer.shapes(["a red car wearing a green top hat"]))
    np.testing.assert_allclose(
        shapes, log["category"][:, :2] + log["modifier"][:, :1], rtol=1e-5, atol=1e-6
    )
    assert scorer.name == "judge, category x colour"


def test_a_judge_that_reads_compares() -> None:
    scorer, pictures = _small(meeting=12, words=len(build_tokenizer()), text_width=16)
    captions = scorer.captions()
    _, vectors = scorer.judge.look(scorer.params, jnp.asarray(pictures))
    ids = jnp.asarray(scorer.judge.read(captions))
    expected = scorer.judge.compare(scorer.params, vectors, ids)
    np.testing.assert_allclose(scorer(pictures, captions), expected, rtol=1e-4, atol=1e-5)
    assert scorer.name == "judge that reads"
    # Where a caption leaves the colour open, all of them are named.
    log = jax.nn.log_softmax(scorer.judge(scorer.params, jnp.asarray(pictures)).category)
    shapes = scorer(pictures, scorer.shapes())
    np.testing.assert_allclose(shapes, log[:, :2], rtol=1e-4, atol=1e-5)


def test_other_captions_and_parameters_take_the_same_program() -> None:
    for changes in ({}, {"meeting": 12, "words": len(build_tokenizer()), "text_width": 16}):
        scorer, pictures = _small(**changes)
        twice = dataclasses.replace(scorer, params=jax.tree.map(lambda x: 2 * x, scorer.params))
        first = scorer(pictures[:16], ["a red apple", "a green car"])
        programs = caption_judge._scores._cache_size()
        assert not np.allclose(first, scorer(pictures[:16], ["a red car", "a green apple"]))
        assert not np.allclose(first, twice(pictures[:16], ["a red apple", "a green car"]))
        assert caption_judge._scores._cache_size() == programs


def test_the_shipped_judge_finds_the_captions_of_true_objects(
    drawn: dict[str, Pictures],
) -> None:
    """Of all 400; the truth, which it was trained on pictures of, is found nearly always."""
    scorer = load_scorer()
    subjects = [Subject(text, 0, views) for text, views in drawn.items()]
    row = retrieve(subjects, "colour", scorer, scorer.captions(list(drawn)))
    assert row.captions == 400 and row.objects.value >= 15 / 18
    assert row.truth is None
    shape = retrieve(subjects, "textureless", scorer, scorer.shapes(list(drawn)), shape_of)
    assert shape.captions == 40 and shape.objects.value >= 12 / 18


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--clip", "/nowhere"], "--clip needs --captions"),
        (["--clip", "/nowhere", "--captions", "CAPTIONS"], "/nowhere holds no CLIP model"),
        (["--captions", "/nowhere"], "/nowhere"),
        (["--captions", "CAPTIONS"], "the judge cannot tell 'a grey thing'"),
        (["--azimuths", "0"], "--azimuths"),
        (["--judge", "/nowhere"], "holds no judge"),
        ([], "'a grey thing'"),
    ],
)
def test_bad_input_is_named_in_one_line(
    options: Sequence[str],
    named: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(CAPTIONS))
    options = [str(file) if word == "CAPTIONS" else word for word in options]
    with pytest.raises(SystemExit) as stop:
        main(["--runs", str(finished), *options, "--output", str(tmp_path / "out"), "--size", "8"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]


def test_a_tokenizer_that_does_not_fit_is_refused(clip: Path, tmp_path: Path) -> None:
    assert len(CLIP_WORDS) > 50
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["vocab_size"] = 5000
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        load_clip(tmp_path)


def test_a_judge_saved_and_read_again_scores_the_same(tmp_path: Path) -> None:
    scorer, pictures = _small()
    save_judge(tmp_path, scorer.judge, scorer.params)
    again = load_scorer(tmp_path)
    np.testing.assert_allclose(
        again(pictures, again.captions()), scorer(pictures, scorer.captions()), atol=2e-2
    )

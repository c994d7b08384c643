"""A run's page and the gallery, as text: everything is there, everything is escaped."""

import html.parser
import json
import re
from pathlib import Path

import pytest
from helpers.small_scenes import written_run

from dreamfusion_jax.pages.gallery import NoRunsError, find_runs, write_gallery
from dreamfusion_jax.pages.record import read_record
from dreamfusion_jax.pages.run_page import mesh_page, some, write_run_page
from dreamfusion_jax.runs.checkpoint import CheckpointError

EVIL = "a <b>red</b> \"ball\" & 'co' </script><script>document.title = 'hit'</script>"


class Reader(html.parser.HTMLParser):
    """Texts, tags and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def attributes(self, name):
        return [values[name] for _, values in self.tags if name in values]


def test_a_page_tells_everything_and_escapes_the_prompt(tmp_path):
    folder = written_run(tmp_path / "run", EVIL, seed=7)
    page = write_run_page(folder, "run --prompt '<i>'")
    read = Reader(page.read_text(encoding="utf-8"))
    assert f"{EVIL}, seed 7" in read.texts and EVIL in read.texts  # Title and heading.
    assert "b" not in [tag for tag, _ in read.tags] and "script" not in [t for t, _ in read.tags]
    assert "run --prompt '<i>'" in read.texts
    assert any("seed 7" in text and "step 600 of 600" in text for text in read.texts)
    assert set(read.attributes("href")) == {
        *("mesh.glb", "preview.png", "config.json", "metrics.csv", "progress.csv")
    }
    assert "shown/000600.png" in read.attributes("src")
    assert [tag for tag, _ in read.tags].count("polyline") == 2 + 1 + 1
    (inner,) = read.attributes("srcdoc")
    assert inner == mesh_page(folder / "mesh.glb")
    assert {"train.steps", "scene.field.kind", "commit"} <= set(read.texts)


def test_the_page_of_a_mesh_loads_nothing_keeps_the_licence_and_shows_true_colours(tmp_path):
    page = mesh_page(written_run(tmp_path / "run") / "mesh.glb")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert "Three.js Authors" in page and "SPDX-License-Identifier: MIT" in page
    assert "renderer.outputEncoding=THREE.sRGBEncoding" in page


def test_the_same_run_has_the_same_page(tmp_path):
    folder = written_run(tmp_path / "run")
    assert write_run_page(folder).read_bytes() == write_run_page(folder).read_bytes()


def test_an_unfinished_run_has_a_page_without_what_is_missing(tmp_path):
    folder = written_run(tmp_path / "run")
    for name in ("preview.png", "mesh.glb", "metrics.csv", "progress.csv", "shown/000600.png"):
        (folder / name).unlink()
    read = Reader(write_run_page(folder).read_text(encoding="utf-8"))
    assert read.attributes("href") == ["config.json"]
    assert not {"iframe", "video", "polyline", "pre", "img"} & {tag for tag, _ in read.tags}


def test_first_last_and_evenly_some_between():
    paths = [Path(str(number)) for number in range(11)]
    assert some(paths[:3]) == paths[:3]
    assert some(paths, 6) == paths[::2]


def test_the_gallery_finds_runs_at_any_depth_and_knows_their_measures(tmp_path):
    runs = [
        written_run(tmp_path / "one", "a red ball", 0, residual=0.5),
        written_run(tmp_path / "deep" / "er", EVIL, 1, residual=0.25),
    ]
    (tmp_path / "config.json").write_text('{"model": "of somebody else"}')
    assert sorted(find_runs(tmp_path)) == sorted(runs)
    page = write_gallery(tmp_path, lambda settings: f"again {settings.seed}")
    read = Reader(page.read_text(encoding="utf-8"))
    assert EVIL in read.texts
    cards = [values for tag, values in read.tags if values.get("class") == "card"]
    by_page = {card["href"]: json.loads(card["data-measures"]) for card in cards}
    assert by_page["one/index.html"]["residual_0.2"] == 0.5
    assert by_page["deep/er/index.html"] == {
        "step": 600.0,
        "opacity": 0.3,
        "residual_0.2": 0.25,
        "residual_0.8": 0.1,
        "change": 0.02,
    }
    assert {"residual_0.2", "opacity"} <= set(read.attributes("value"))
    assert "again 1" in (runs[1] / "index.html").read_text(encoding="utf-8")


def test_a_damaged_run_is_listed_and_does_not_keep_the_others_from_the_gallery(tmp_path):
    written_run(tmp_path / "good")
    bad, worse = (written_run(tmp_path / name) for name in ("bad", "worse"))
    (bad / "config.json").write_text("{")
    (worse / "mesh.glb").write_bytes(b"glTF")
    said = []
    page = write_gallery(tmp_path, say=said.append).read_text(encoding="utf-8")
    assert len(said) == 2
    assert str(bad) in said[0] and str(worse) in said[1]
    assert all(tag in page for tag in ("good/index.html", "Could not be read", "not JSON"))


def test_a_gallery_of_nothing_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoRunsError, match=str(folder)):
            write_gallery(folder)
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        read_record(tmp_path)

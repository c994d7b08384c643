"""Every figure at its smallest setting, by its real command; the objects are shared."""

import itertools
import json
from pathlib import Path

import pytest
from helpers.programs import command
from PIL import Image

from experiments.figures import fig2, fig4, fig6, table1

TINY = ["--prior", "oracle", "--steps", "2", "--size", "32"]
NAMES = (
    "gallery",
    "fig2",
    "fig3",
    "fig4",
    "fig6",
    "fig6-pictures",
    "fig9",
    "table1",
    "table1-pictures",
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, drawn by one command."""
    folder = tmp_path_factory.mktemp("figures") / "out"
    result = command("figures.all", "--small", *TINY, "--output", folder)
    assert result.returncode == 0, result.stderr
    assert f"done: {folder / 'index.html'}" in result.stdout
    return folder


@pytest.mark.figures
@pytest.mark.parametrize("name", NAMES)
def test_each_figure_has_its_picture_its_print_and_its_numbers(drawn: Path, name: str) -> None:
    with Image.open(drawn / f"{name}.png") as image:
        assert min(image.size) > 50 and len(image.getcolors(2**24) or []) > 3
    assert (drawn / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((drawn / f"{name}.json").read_text())
    assert not list(drawn.glob(".part-*"))


@pytest.mark.figures
def test_the_index_shows_them_all(drawn: Path) -> None:
    page = (drawn / "index.html").read_text()
    for name in NAMES:
        assert name.endswith("-pictures") or f"src='{name}.png'" in page
    assert "python -m experiments.figures.fig9 --help" in page


@pytest.mark.figures
def test_objects_are_made_once_and_refined_from_one_another(drawn: Path) -> None:
    runs = sorted(path.parent for path in (drawn / "runs").rglob("config.json"))
    assert len(runs) == 8
    stages = json.loads((drawn / "fig4.json").read_text())
    assert stages["a red car"]["init_from"] is None
    assert stages["a blue car"]["init_from"].endswith("plain/a-red-car-seed0")
    settings = json.loads(
        (drawn / "runs/oracle-toybox-2-steps/plain/a-red-car-seed0/config.json").read_text()
    )
    assert settings["settings"]["init_from"] is None


@pytest.mark.figures
def test_the_numbers_of_the_ablation_are_those_of_its_rows(drawn: Path) -> None:
    rows = json.loads((drawn / "fig6.json").read_text())["rows"]
    assert list(rows) == ["base", "+ wide cameras", "+ view prompts", "+ lighting", "+ textureless"]
    assert [row["kind"] for row in rows["base"]] == list(fig6.KINDS)
    table = json.loads((drawn / "table1.json").read_text())
    assert [row["kind"] for row in table["ours"]] == list(table1.KINDS)
    assert table["ours"][0]["truth"]["value"] == 1.0
    assert "| textureless |" in (drawn / "table1.md").read_text()


def test_the_rungs_of_the_ablation_add_one_thing_each() -> None:
    rungs = fig6.ladder(fig6.Arguments())
    assert len(rungs) == 5
    values = list(rungs.values())
    for before, after in itertools.pairwise(values):
        changed = {name for name in after if before.get(name) != after[name]}
        assert len(changed) == 1


@pytest.mark.figures
def test_a_mirrored_picture_is_symmetric_and_a_free_one_is_not(drawn: Path) -> None:
    numbers = json.loads((drawn / "fig2.json").read_text())
    asymmetry = numbers["asymmetry"]
    assert asymmetry["SDS, x = (flip(θ), θ)"] == 0.0 < asymmetry["SDS, free pixels"]


@pytest.mark.parametrize(
    ("program", "options", "named"),
    [
        (fig2, ["--seeds", "0"], "--seeds"),
        (fig4, ["--size", "2"], "--size"),
        (fig6, ["--prompts"], "--prompts"),
        (table1, ["--preset", "none-such"], "preset must be one of"),
        (table1, ["--clip", "/nowhere"], "--clip needs --captions"),
        (fig6, ["--clip", "/nowhere"], "--clip needs --captions"),
        (table1, ["--baseline", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_named_in_one_line(
    program, options, named, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        program.main([*options, "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]

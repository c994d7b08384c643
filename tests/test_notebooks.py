"""The notebooks run from top to bottom, with one cell changed that makes them small."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "colabs"
# How many pictures, videos or pages each of them shows.
SHOWN = {"sds_2d": 3, "dreamfusion": 4, "inside_a_step": 2}


def _load_hook():
    """What brings the notebooks into the site makes them small in the same way."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs/hooks/site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def _rich(book: nbformat.NotebookNode) -> list[str]:
    """Kinds of what is shown beside text."""
    data = [o.data for c in book.cells for o in c.get("outputs", []) if "data" in o]
    return [kind for shown in data for kind in shown if kind in ("image/png", "text/html")]


@pytest.mark.figures
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.reads(json.dumps(_load_hook().shrink(_read(name))), as_version=4)
    nbclient.NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert len(_rich(book)) >= SHOWN[name]
    errors = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert not errors


def test_every_notebook_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_carry_no_outputs_and_open_in_colab(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    book = json.loads(text)
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert "colab.research.google.com/github/" in text and f"colabs/{name}.ipynb" in text
    # They call the library: nothing is defined but a function that keeps pictures.
    sources = "".join("".join(cell["source"]) for cell in cells)
    assert "class " not in sources and sources.count("def ") <= 1


def test_a_small_setting_that_is_not_there_is_named() -> None:
    book = _read("sds_2d")
    book["metadata"]["small"] = {"NOTHING": 1}
    with pytest.raises(ValueError, match="0 lines that set NOTHING"):
        _load_hook().shrink(book)

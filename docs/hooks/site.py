"""Brings README and the notebooks into the site; mkdocs-jupyter executes the latter.

With SMALL_NOTEBOOKS set they run at the small settings that each of them names in its metadata.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def shrink(book: dict[str, Any]) -> dict[str, Any]:
    """Puts the small settings of a notebook into its parameter cell.

    Raises:
        ValueError: A setting is not in the cell.
    """
    (cell,) = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
    text = "".join(cell["source"])
    for name, value in book["metadata"]["small"].items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        if count != 1:
            raise ValueError(f"the parameter cell has {count} lines that set {name}")
    cell["source"] = text
    return book


def on_pre_build(config: Any) -> None:
    """Copies colabs/ to docs/notebooks/, which is not committed."""
    target = Path(config["docs_dir"]) / "notebooks"
    target.mkdir(exist_ok=True)
    for path in sorted((ROOT / "colabs").glob("*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        if os.environ.get("SMALL_NOTEBOOKS"):
            book = shrink(book)
        copy = json.dumps(book, indent=1, ensure_ascii=False)
        file = target / path.name
        if not file.exists() or file.read_text(encoding="utf-8") != copy:
            file.write_text(copy, encoding="utf-8")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """README is the first page, with its links as seen from docs/."""
    if page.file.src_uri != "index.md":
        return markdown
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.replace("(dreamfusion_jax/weights/toybox/README.md)", "(toy-world.md)")
    return text.replace("(docs/", "(").replace("(colabs)", "(notebooks/dreamfusion.ipynb)")

"""Templates of this package: everything that is filled in is escaped."""

from pathlib import Path
from typing import Any

from dreamfusion_jax.files import write_whole


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fills a template of `pages/templates` in and writes it.

    Args:
        path: The page.
        template: Its file's name.
        **values: What it speaks of.

    Raises:
        OSError: The page cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dreamfusion_jax.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(path, environment.get_template(template).render(values).encode())

"""Libraries that take long to import are imported where they are used: help comes at once."""

import pathlib
import subprocess
import sys

SLOW = {
    *("huggingface_hub", "jinja2", "matplotlib", "mediapy", "orbax", "skimage", "tensorboardX"),
    *("transformers", "trimesh", "viser"),
}
PROGRAM = """
import sys
import experiments.run
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_the_main_program_does_not_import_what_its_help_has_no_use_for():
    root = pathlib.Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root
    )
    imported = set(result.stdout.split())
    assert "dreamfusion_jax" in imported
    assert imported & SLOW == set()

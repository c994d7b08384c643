"""Holds the imports of the package to the floors of the house: a package imports from below."""

import ast
import importlib.util
import pathlib
import re

import pytest

PACKAGE = "dreamfusion_jax"
ROOT = pathlib.Path(__file__).parent.parent / PACKAGE

FLOORS = [
    ["pytree", "maths", "draws", "caches", "checks", "files", "flops"],
    ["described", "sharing"],
    ["kept", "cores"],
    ["schedules", "devices"],
    ["scene", "diffusion"],
    ["priors"],
    ["distillation"],
    ["presets"],
    ["field_choice"],
    ["looks", "export"],
    ["compose"],
    ["runs"],
    ["evaluation", "pages", "viewer", "benchmark"],
    ["__init__"],
]
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
# The procedural world stands beside the house. It is drawn with what lies below the priors; the
# priors that know it, the presets made for it and what measures against it use it. Only the
# training of its prior, a program's affair, looks further up.
BESIDE = "toybox"
BESIDE_TRAINING = "toybox/training"
MAY_IMPORT_BESIDE = {"priors", "presets", "evaluation"}
# Test tools, the programs that use the library, and their command lines.
FOREIGN = {"diffusers", "experiments", "tests", "torch", "tyro"}

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def unit_of(file):
    """The entry of the table that a file belongs to: its package, or else its own name."""
    return file.removesuffix(".py").split("/")[0]


def imports_of(source, package):
    """Absolute dotted names that a source text imports, wherever in the text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(module, package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(file, source):
    """Imports of a file that the table forbids."""
    own = unit_of(file)
    package = ".".join([PACKAGE, *file.split("/")[:-1]])
    for name in imports_of(source, package):
        top, *rest = name.split(".")
        if top in FOREIGN:
            yield name
        if top != PACKAGE or not rest or rest[0] == own:
            continue
        if file.startswith(BESIDE_TRAINING):
            allowed = FLOOR.get(rest[0], len(FLOORS)) <= FLOOR["runs"]
        elif rest[0] == BESIDE:
            allowed = own in MAY_IMPORT_BESIDE
        else:
            # What is not in the table belongs nowhere, and may neither import nor be imported.
            limit = FLOOR["priors"] if own == BESIDE else FLOOR.get(own, 0)
            allowed = FLOOR.get(rest[0], len(FLOORS)) < limit
        if not allowed:
            yield name


def flags_in(source):
    """String constants that speak of command line options, docstrings aside."""
    tree = ast.parse(source)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if (
            isinstance(text, str)
            and id(node) not in documents
            and re.search(" .*--[a-z]|--[a-z].* ", text)
        ):
            yield text


def test_every_file_is_in_the_table():
    assert len(FILES) > 5
    assert {unit_of(file) for file in FILES} - {*FLOOR, BESIDE} == set()


@pytest.mark.parametrize("file", FILES)
def test_imports_come_from_lower_floors(file):
    assert list(violations(file, (ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", FILES)
def test_the_library_does_not_speak_of_options(file):
    assert list(flags_in((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("scene/render.py", "from dreamfusion_jax.scene.fields.grid import GridField", 0),
        ("scene/render.py", "from dreamfusion_jax import scene, distillation", 1),
        ("scene/render.py", "import dreamfusion_jax.priors.prior", 1),
        ("scene/render.py", "from dreamfusion_jax.diffusion import unet", 1),
        ("scene/fields/grid.py", "def f():\n    from ...distillation.train import train_step", 1),
        ("diffusion/unet.py", "from .blocks import Block\nfrom ..maths import safe_exp", 0),
        ("diffusion/unet.py", "from ..priors import Prior", 1),
        ("toybox/world.py", "from dreamfusion_jax.scene.camera import Camera", 0),
        ("toybox/world.py", "from dreamfusion_jax.priors.prior import View", 1),
        ("toybox/training/data.py", "from dreamfusion_jax.diffusion.unet import UNet", 0),
        ("toybox/training/loop.py", "from dreamfusion_jax.runs.loop import iterate", 0),
        ("toybox/training/data.py", "from dreamfusion_jax.evaluation import judge", 1),
        ("priors/toybox.py", "from dreamfusion_jax.toybox import captions", 0),
        ("presets.py", "from dreamfusion_jax.toybox.bank import SOFT_LIGHTING", 0),
        ("looks/views.py", "from dreamfusion_jax.export.mesh import extract_mesh", 1),
        ("distillation/train.py", "from dreamfusion_jax.toybox import captions", 1),
        ("distillation/train.py", "import tyro\nimport torch.nn", 2),
    ],
)
def test_the_check_sees_what_it_should(file, source, count):
    assert len(list(violations(file, source))) == count


def test_the_check_of_options_sees_what_it_should():
    source = '"""Speaks of --steps."""\ndef f(x):\n    raise ValueError(f"--steps {x} is bad")\n'
    assert len(list(flags_in(source))) == 1

"""Holds the imports of the package to the table of layers: a file imports from lower ones."""

import ast
import importlib.util
import pathlib

import pytest

PACKAGE = "dreamfusion_jax"
ROOT = pathlib.Path(__file__).parent.parent / PACKAGE

LAYERS = [
    ["pytree", "maths", "devices"],
    ["camera", "lighting", "intervals", "encoding", "schedule"],
    ["field", "shading", "prompts", "diffusion"],
    ["render", "prior"],
    ["sds", "losses", "priors", "mesh", "media", "latents", "sampling", "shampoo"],
    ["train", "views"],
    ["checkpoint", "config"],
    ["__init__"],
]
LAYER = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}
# The procedural world stands beside the layers: it uses the lowest two; the priors that know
# it and the presets made for it use it.
BESIDE = "toybox"
MAY_IMPORT_BESIDE = {"priors", "config"}
# Test tools, the programs that use the library, and their command lines.
FOREIGN = {"diffusers", "experiments", "tests", "torch", "tyro"}

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def unit_of(file):
    """The entry of the table that a file belongs to: its folder, or else its own name."""
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
        if rest[0] == BESIDE:
            allowed = own in MAY_IMPORT_BESIDE
        else:
            # What is not in the table belongs nowhere, and may neither import nor be imported.
            limit = 2 if own == BESIDE else LAYER.get(own, 0)
            allowed = LAYER.get(rest[0], len(LAYERS)) < limit
        if not allowed:
            yield name


def test_every_file_is_in_the_table():
    assert len(FILES) > 5
    assert {unit_of(file) for file in FILES} - {*LAYER, BESIDE} == set()


@pytest.mark.parametrize("file", FILES)
def test_imports_come_from_lower_layers(file):
    assert list(violations(file, (ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("render.py", "from dreamfusion_jax.field import Field", 0),
        ("render.py", "from dreamfusion_jax import field, sds", 1),
        ("render.py", "import dreamfusion_jax.prior", 1),
        ("field.py", "def f():\n    from .train import train_step", 1),
        ("diffusion/unet.py", "from .blocks import Block\nfrom ..maths import safe_exp", 0),
        ("diffusion/unet.py", "from ..prior import Prior", 1),
        ("toybox/world.py", "from dreamfusion_jax.camera import Camera", 0),
        ("toybox/world.py", "from dreamfusion_jax.shading import Light", 1),
        ("toybox/bank.py", "from dreamfusion_jax.lighting import Lighting", 0),
        ("priors/toybox.py", "from dreamfusion_jax.toybox import captions", 0),
        ("priors/oracle.py", "from dreamfusion_jax.toybox.world import Scene", 0),
        ("config.py", "from dreamfusion_jax.toybox.bank import SOFT_LIGHTING", 0),
        ("train.py", "from dreamfusion_jax.toybox import captions", 1),
        ("train.py", "import tyro\nimport torch.nn", 2),
    ],
)
def test_the_check_sees_what_it_should(file, source, count):
    assert len(list(violations(file, source))) == count

"""Times and work of programs whose time and work are known."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE

from dreamfusion_jax.benchmark import components
from dreamfusion_jax.benchmark.ceilings import COPY, Ceilings, Sizes, ceiling_cases
from dreamfusion_jax.benchmark.table import Compared, compared_table, table
from dreamfusion_jax.benchmark.timing import Case, Measured, Running, measure, work_of
from dreamfusion_jax.presets import TOYBOX, Preset
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel

SMALL = Sizes(product=64, copy=1 << 12, rows=1 << 8, gathered=1 << 6)


def test_the_time_of_a_sleep_is_its_time():
    found = measure(Case("sleep", lambda: time.sleep(0.02), tuple), seconds=0.1)
    assert 0.02 <= found.seconds < 0.06 and 3 <= found.repeats <= 5
    assert found.flops is found.bytes is found.flop_rate is None


def test_the_work_of_the_ceilings_is_what_it_is_known_to_be():
    rows = {
        row.name: row
        for row in (measure(case, 0.0) for case in ceiling_cases(SMALL, ["float32", "bfloat16"]))
    }
    # A multiplication and an addition for each of n^3; every number read once and written once.
    assert rows["product, float32"].flops == pytest.approx(2 * 64**3, rel=0.02)
    assert rows["product, bfloat16"].flops == pytest.approx(2 * 64**3, rel=0.1)
    assert rows["product, float32"].bytes == pytest.approx(3 * 4 * 64**2, rel=0.02)
    assert rows[COPY].bytes == pytest.approx(2 * 4 * 2**12, rel=0.02)
    ceilings = Ceilings.of([*rows.values()])
    assert ceilings.products["float32"] == rows["product, float32"].flop_rate
    assert ceilings.copy == rows[COPY].byte_rate


def test_what_is_given_to_a_library_is_counted_before_it_is_compiled():
    class GivenAway:
        """A program of a GPU, whose product XLA has given to cuBLAS."""

        def as_text(self):
            return 'custom-call(a, b), custom_call_target="__cublas$lt$matmul"'

        def cost_analysis(self):
            return {"flops": -1.0, "bytes accessed": -1.0}  # As seen with jaxlib 0.11.2.

    class Lowered:
        def __init__(self, program):
            self.cost_analysis = program.cost_analysis

        def compile(self):
            return GivenAway()

    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    lowered = jax.jit(lambda a, b: a @ b).lower(square, square)
    flops, moved = work_of(Lowered(lowered))
    assert flops == pytest.approx(2 * 64**3, rel=0.02) and moved is None


def test_a_row_is_held_against_the_ceiling_that_it_comes_nearest_to():
    ceilings = Ceilings({"float32": 100.0, "bfloat16": 400.0}, copy=10.0)
    row = Measured("x", seconds=2.0, repeats=3, flops=100.0, bytes=2.0)
    assert ceilings.nearest(row) == (0.5, "product, float32")
    assert ceilings.nearest(dataclasses.replace(row, dtype="bfloat16")) == (
        0.125,
        "product, bfloat16",
    )
    assert ceilings.nearest(dataclasses.replace(row, bytes=16.0)) == (0.8, COPY)
    assert ceilings.nearest(dataclasses.replace(row, flops=None, bytes=None)) is None
    lines = table([row], ceilings).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert "| 2 s " in lines[2] and "0.50 (product, float32)" in lines[2]


def test_what_is_carried_takes_the_place_of_the_first_argument():
    step = jax.jit(lambda x, y: (x + y, y), donate_argnums=0)
    running = Running(Case("step", step, lambda: (jnp.zeros(3), jnp.ones(3)), carries=True))
    for _ in range(4):
        running.time()
    np.testing.assert_array_equal(running._arguments[0], 5.0)


def test_ratios_are_told_from_least_to_most():
    row = Compared("x", 1e-3, 2e-3, (1.5, 2.0, 4.0), 1e-6)
    line = compared_table([row], "PyTorch").splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("x", "1 ms", "2 ms", "2.00", "1.50", "4.00", "1.0e-06")
    ]


@pytest.fixture(scope="module")
def setting():
    scene = SceneModel(
        MlpField(width=8, blocks=1, frequencies=2),
        SamplingConfig(radius=0.62, proposals=(4,), intervals=4),
        ProposalMlp(8, 1, 2),
        background=None,
    )
    train = dataclasses.replace(TOYBOX.train, views=2)
    config = dataclasses.replace(TOYBOX, scene=scene, train=train)
    preset = Preset("tiny", "toybox", config, "", "")
    prior = GaussianPrior(SCHEDULE, image_size=4)
    return components.Setting(preset, prior, None, "a grey thing")


@pytest.mark.slow
def test_every_part_of_a_step_is_timed_and_its_work_counted(setting):
    cases = [
        *components.scene_cases(setting),
        *components.prior_cases(setting),
        components.step_case(setting),
    ]
    rows = {case.name.split(",")[0]: measure(case, 0.0) for case in cases}
    assert [*rows] == [
        *("field forward", "places along rays", "render forward"),
        *("render forward and backward", "UNet with guidance"),
        *("image encoder forward and backward", "text encoder", "train_step of tiny"),
    ]
    assert all(row.seconds > 0 for row in rows.values())
    assert rows["text encoder"].flops is None
    # A linear layer of 12 numbers, a block of two, and one to density and colour, for each of
    # the points, is the least that the field can take.
    points = 2 * 4**2 * 4
    field = rows["field forward"].flops
    assert field is not None and field > points * 2 * (12 * 8 + 2 * 8 * 8 + 8 * 4)
    flops = [row.flops or 0.0 for row in rows.values()]
    forward, backward, step = flops[2], flops[3], flops[-1]
    assert field < forward < backward < step

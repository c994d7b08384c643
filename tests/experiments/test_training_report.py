"""What a training of the embedded prior says of its speed, by a clock of the test's own."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from dreamfusion_jax.toybox.training import report as module


@pytest.mark.parametrize(
    ("draw", "said"), [(3.0, "(75% of the time waiting"), (0.05, "pictures/s")]
)
def test_waiting_for_pictures_is_told_when_it_is_much(monkeypatch, draw, said):
    """Each batch takes `draw` seconds to come and each step one; the first step is not counted."""
    clock, text = [0.0], io.StringIO()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def pass_time(seconds):
        clock[0] += seconds

    def drawn():
        while True:
            pass_time(draw)
            yield object()

    with module.Report(Console(file=text, width=200), 0, 9, batch_size=8) as report:
        batches = report.waiting(drawn())
        for _ in range(5):
            next(batches)
            pass_time(1.0)
            report.add(0.5)
        report.write(5)
    line = text.getvalue().splitlines()[0]
    assert line.startswith(f"step 5 loss 0.5000  {8 / (1 + draw):.0f} pictures/s")
    assert said in line and ("waiting" in line) == (draw > 1)

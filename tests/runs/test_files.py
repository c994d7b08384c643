"""Files that are whole or not there, and folders that one program writes."""

import signal
import subprocess
import sys

import pytest

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.runs.checkpoint import CheckpointError
from dreamfusion_jax.runs.files import locked

HOLD = """
import pathlib, sys, time
from dreamfusion_jax.runs.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "picture.png"
    write_whole(path, b"one")
    write_whole(path, lambda part: part.write_bytes(b"two"))
    assert path.read_bytes() == b"two"

    def die(part):
        part.write_bytes(b"thr")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, die)
    assert path.read_bytes() == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_a_second_program_is_refused_until_the_first_is_dead(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match="another program is writing to"),
            locked(tmp_path),
        ):
            pytest.fail("let in")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(tmp_path):
        pass

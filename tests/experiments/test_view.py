"""The viewer's program: where it says it is, how it ends, and what it says of bad input."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from helpers.small_scenes import ball

from experiments.view import main


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "ball.safetensors"
    ball().save(path)
    return path


def test_the_program_serves_until_it_is_stopped(scene):
    program = subprocess.Popen(
        [sys.executable, "-m", "experiments.view", str(scene), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), program.communicate()
    address = line.split()[0]
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"<html" in page.read()
    program.send_signal(signal.SIGTERM)
    said, errors = program.communicate(timeout=60)
    assert (program.returncode, said, errors) == (0, "", "")
    with socket.socket() as trial:
        assert trial.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


def test_bad_input_is_one_line(scene, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert "name the folder" in refused(capsys)
    assert "/nowhere" in refused(capsys, scene, "/nowhere")
    assert "not the folder of a run" in refused(capsys, tmp_path)
    scene.with_name("bad.safetensors").write_bytes(b"x")
    assert "bad.safetensors cannot be read" in refused(capsys, scene.with_name("bad.safetensors"))
    assert "--sizes.fine" in refused(capsys, scene, "--sizes.fine", "0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in refused(capsys, scene, "--port", port)

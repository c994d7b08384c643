"""The trainer for bare machines: imports, pieces, and the way from a bank to weights."""

import dataclasses
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dreamfusion_jax.evaluation.judge import load_judge
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.toybox.bank import BankConfig, write_views
from dreamfusion_jax.toybox.training.history import History
from experiments import train_toybox_gpu

ROOT = Path(__file__).parents[2]

BARE = """
import importlib.abc, importlib.util, sys
ABSENT = {"jaxtyping", "tyro", "mediapy", "imageio_ffmpeg", "diffusers", "torch", "skimage"}
ABSENT |= {"lazy_loader", "cattrs", "trimesh"}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ABSENT else found(name, *more)
sys.meta_path.insert(0, Absent())
from experiments import train_toybox_gpu
train_toybox_gpu.main(sys.argv[1:])
"""


def test_pieces_are_small_and_join_to_the_same_files(tmp_path):
    pieces, folder = tmp_path / "pieces", tmp_path / toybox.SHIPPED.name
    written = train_toybox_gpu.split(toybox.SHIPPED, pieces, size=5_000_000)
    assert max(piece.stat().st_size for piece in written) <= 5_000_000 and len(written) == 5
    train_toybox_gpu.main(["join", "--pieces", str(pieces), "--output", str(folder)])
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert file.read_bytes() == (toybox.SHIPPED / file.relative_to(folder)).read_bytes()
    assert toybox.load(folder)[0].vocabulary == toybox.load()[0].vocabulary
    written[1].unlink()
    with pytest.raises(tarfile.TarError):
        train_toybox_gpu.join(pieces, folder)
    with pytest.raises(FileNotFoundError, match="no pieces of other"):
        train_toybox_gpu.join(pieces, tmp_path / "other")


@pytest.mark.slow
def test_it_trains_on_a_bare_machine_and_goes_on(tmp_path):
    """A child in which what such a machine lacks cannot be imported; two calls, then a stop."""
    bank = tmp_path / "bank"
    write_views(bank, ("barrel", None), 0, 4, BankConfig(size=8))
    options = {"bank": bank, "output": tmp_path / "prior", "size": 8, "batch-size": 2}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--block", "2", "--channels", "16", "--attention", "0", "--float32"]
    command = [sys.executable, "-c", BARE, "train", *words, "--steps", "3", "--save-every", "2"]
    command += ["--feeders", "0"]
    for minutes in ("1e-6", "9"):
        subprocess.run([*command, "--minutes", minutes], cwd=ROOT, check=True)
    told = History.read(tmp_path / "prior")
    assert told.steps == 3 and told.stages[-1].times_resumed == 1
    prior, params = toybox.load(tmp_path / "prior")
    assert np.isfinite(prior.encode_text(params, ["a blurry picture"])).all()


def test_drawing_is_shared_between_workers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        train_toybox_gpu, "write_views", lambda folder, kind, chunk, *_: drawn.append((kind, chunk))
    )
    for worker in range(7):
        words = ["draw", "--bank", str(tmp_path), "--workers", "7", "--worker", str(worker)]
        train_toybox_gpu.main([*words, "--chunks", "2"])
    assert len(drawn) == len(set(drawn)) == 240
    mine = [chunk for (category, _), chunk in drawn if category == drawn[0][0][0]]
    assert mine == sorted(mine)  # Should the time not suffice, no kind is left out.


@pytest.mark.slow
def test_everything_in_one_call(tmp_path, monkeypatch):
    """The whole program on a world of one category: views, prior, judge, pieces of both."""
    words = dataclasses.replace(train_toybox_gpu.WHOLE.vocabulary, categories=("barrel",))
    small = dataclasses.replace(train_toybox_gpu.WHOLE, vocabulary=words)
    monkeypatch.setattr(train_toybox_gpu, "WHOLE", small)

    class Here:
        """A program that runs within this one."""

        def __init__(self, arguments, what, *more):
            main([what, *arguments.words, *more])

        def wait(self, *_):
            return 0

        def kill(self):
            pass

    main = train_toybox_gpu.main
    monkeypatch.setattr(train_toybox_gpu, "_also", Here)
    folders = {name: tmp_path / name for name in ("bank", "output", "judge", "pieces")}
    options = folders | {"size": 32, "batch-size": 4, "minutes": 1, "chunks": 1, "views": 5}
    options |= {"workers": 1, "worker": 0, "block": 2, "channels": 16, "attention": 0}
    options |= {"feeders": 1, "steps": 20, "judge-steps": 3, "judge-batch": 2, "decay": 5}
    main(["all", *(word for n, v in options.items() for word in (f"--{n}", str(v))), "--float32"])
    made = {path.name.split(".")[0] for path in folders["pieces"].iterdir()}
    assert made == {"output", "judge"}
    again = tmp_path / "again" / "output"
    train_toybox_gpu.join(folders["pieces"], again)
    assert History.read(again).steps == 20 and toybox.load(again)[0].vocabulary == words
    train_toybox_gpu.join(folders["pieces"], tmp_path / "again" / "judge")
    assert load_judge(tmp_path / "again" / "judge")[0].config.image_size == 32

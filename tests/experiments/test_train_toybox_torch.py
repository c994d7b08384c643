"""The trainer in PyTorch: it goes on where it stopped, and begins with averaged weights alone."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dreamfusion_jax.priors import toybox
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.bank import BankConfig, write_views
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.training import optimizer
from dreamfusion_jax.toybox.training.data import WHOLE
from dreamfusion_jax.toybox.training.history import History
from dreamfusion_jax.toybox.training.model import make_networks
from experiments import torch_samples, train_toybox_torch


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A dozen views of a barrel."""
    folder = tmp_path_factory.mktemp("bank")
    write_views(folder, ("barrel", None), 0, 12, BankConfig(size=8))
    return folder


@pytest.fixture(autouse=True)
def no_grid(monkeypatch):
    """Sheets of samples are looked at by eye."""
    monkeypatch.setattr(train_toybox_torch, "draw_grid", lambda *_, **__: None)


def train(folder, bank, steps, *more):
    options = {
        "output": folder,
        "bank": bank,
        "save-every": 2,
        "report-every": 2,
        "optimization.steps": steps,
        "optimization.batch-size": 4,
        "optimization.decay": 0,
        "model.image-size": 8,
        "model.block": 2,
        "model.channels": 16,
        "model.attention": False,
        "model.text-width": 16,
        "model.text-layers": 1,
        "vocabulary.categories": "barrel",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    train_toybox_torch.main([*words, *more])


def weights(folder):
    return torch.load(folder / "state.pt", weights_only=True)


def test_a_stopped_training_goes_on_to_the_same_weights(bank, tmp_path, monkeypatch):
    train(tmp_path / "straight", bank, 4)
    real, calls = train_toybox_torch.loss_at, []

    def stop_in_the_fourth(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train_toybox_torch, "loss_at", stop_in_the_fourth)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "stopped", bank, 4)
    assert stopped.value.code == 130
    assert History.read(tmp_path / "stopped").steps == 2
    train(tmp_path / "stopped", bank, 4, "--copy-to", str(tmp_path / "second"))
    one, other = (weights(tmp_path / name) for name in ("straight", "stopped"))
    assert one["step"] == other["step"] == 4
    for name, values in one["model"].items():
        assert torch.equal(values, other["model"][name]), name
    told = History.read(tmp_path / "stopped")
    assert told.pictures == 16 and told.stages[0].times_resumed == 1
    prior, _ = toybox.load(tmp_path / "second")
    assert prior.vocabulary.categories == ("barrel",)
    assert (tmp_path / "second/state.pt").read_bytes() == (
        tmp_path / "stopped/state.pt"
    ).read_bytes()


def test_averaged_weights_alone_are_enough_to_begin_with(bank, tmp_path, capsys):
    train(tmp_path / "old", bank, 2)
    (tmp_path / "old/state.pt").unlink()
    train(tmp_path / "new", bank, 3, "--start", str(tmp_path / "old"))
    assert "100.0% of the weights" in capsys.readouterr().out
    state, told = weights(tmp_path / "new"), History.read(tmp_path / "new")
    # Steps are counted on; the warm-up is counted from the new beginning.
    assert (state["step"], state["begin"]) == (3, 2)
    assert [(s.first, s.last, s.start) for s in told.stages] == [(0, 2, None), (2, 3, "old")]
    again = History.read(tmp_path / "new")
    again.write(tmp_path)
    assert History.read(tmp_path) == told


def test_samples_of_a_model_that_knows_the_picture_are_that_picture():
    """Whatever the noise, as DDIM's last step is the clean prediction; guidance adds nothing."""

    class Knows:
        unet = type("Unet", (), {"config": type("Config", (), {"in_channels": 3})})

        def __call__(self, z, step, ids):
            return torch.full_like(z, 0.25)

    abar = torch.linspace(0.9999, 1e-4, 1000)
    ids = torch.zeros(2, 5, dtype=torch.long)
    z = torch_samples.sample(Knows(), ids, ids[:1], abar, grid=4, steps=5, guidance=3.0)
    np.testing.assert_allclose(z.numpy(), 0.25, atol=1e-2)
    assert z.shape == (2, 3, 4, 4)


def test_guidance_follows_the_paper():
    """(1 + omega) x(y) - omega x(), clipped."""

    class Told:
        unet = type("Unet", (), {"config": type("Config", (), {"in_channels": 1})})

        def __call__(self, z, step, ids):
            return (ids[:, :1, None, None] * 0.125 - 0.25).expand_as(z)

    abar = torch.linspace(0.9999, 1e-4, 1000)
    told, untold = torch.ones(1, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long)
    z = torch_samples.sample(Told(), told, untold, abar, grid=2, steps=1, guidance=2.0)
    np.testing.assert_allclose(z.numpy(), 3 * -0.125 + 2 * 0.25, atol=1e-6)


def test_muon_finds_the_same_weights_as_in_the_other_trainer(tmp_path):
    tokenizer = build_tokenizer()
    model = dataclasses.replace(WHOLE.model, channels=(32, 64), attention=(False, True))
    architecture.write_configs(tmp_path, model, WHOLE.vocabulary, tokenizer)
    shapes = make_networks(model, tokenizer, jnp.float32).shapes()
    groups = jax.eval_shape(optimizer.grouped, shapes)
    muon, adam = train_toybox_torch.make_optimizers(
        train_toybox_torch.Miniature(tmp_path, bfloat16=False)
    )
    (inner,), (others,) = (o.param_groups for o in (muon, adam))
    assert sorted(w.numel() for w in inner["params"]) == sorted(
        math.prod(x.shape[1:]) for x in groups["matrices"].values() for _ in range(len(x))
    )
    assert sum(w.numel() for w in others["params"]) == groups["others"].size

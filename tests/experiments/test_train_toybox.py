import dataclasses
import functools
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.torch_models import compile_fast, relative_error
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.runs.checkpoint import Checkpointer
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.bank import BankConfig, allowed_colours, write_views
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.training import loop as toybox_loop
from dreamfusion_jax.toybox.training import model as toybox_model
from dreamfusion_jax.toybox.training import report as toybox_report
from dreamfusion_jax.toybox.training.compiled import Trial
from dreamfusion_jax.toybox.training.data import (
    BY_TWO,
    SMALL,
    WHOLE,
    Batches,
    Optimization,
    ema_decay,
    grid_captions,
    learning_rate,
    to_latents,
)
from dreamfusion_jax.toybox.training.feed import drawn_elsewhere
from dreamfusion_jax.toybox.training.history import History
from dreamfusion_jax.toybox.world import HELD_OUT, HELD_OUT_MODIFIED
from experiments import sample, train_toybox

STEPS = 24
SCHEDULE = NoiseSchedule.from_config(architecture.SCHEDULER)


@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    """A dozen views of a barrel."""
    folder = tmp_path_factory.mktemp("bank")
    write_views(folder, ("barrel", None), 0, 12, BankConfig(size=8))
    return folder


def command(folder, bank, *more):
    """A minute training: one level of 16 channels on a grid of 4 x 4."""
    options = {
        "output": folder,
        "bank": bank,
        "optimization.steps": STEPS,
        "optimization.batch-size": 4,
        "optimization.learning-rate": 2e-3,
        "optimization.warm-up": 3,
        "optimization.decay": STEPS,
        "save-every": 8,
        "log-every": 5,
        "sample-every": 16,
        "sample-steps": 2,
        "model.image-size": 8,
        "model.block": 2,
        "model.channels": 16,
        "model.attention": False,
        "model.text-width": 16,
        "model.text-layers": 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--vocabulary.categories", "barrel", "--vocabulary.colours", "red", "blue", "orange"]
    return [*words, *more]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, bank):
    """The folder of a training from the first step to the last."""
    folder = tmp_path_factory.mktemp("straight") / "prior"
    train_toybox.main(command(folder, bank))
    return folder


def parts_of(folder, bank):
    """What the trainer works with, for the settings of `command`."""
    arguments = train_toybox.parse(command(folder, bank, "--optimization.batch-size", "32"))
    training = toybox_loop.Training(arguments.settings, arguments.running)
    return SimpleNamespace(
        config=arguments.settings.optimization,
        networks=training.networks,
        batch=training.batches.plan(5),
    )


def test_the_loss_on_one_batch_falls(straight, bank):
    parts = parts_of(straight, bank)
    paints, ids = parts.batch
    ids = jnp.asarray(ids)
    z = jax.jit(to_latents, static_argnums=1)(paints, 2)
    assert z.shape == (32, 4, 4, 12) and float(jnp.abs(z).max()) <= 1.0

    @compile_fast
    def loss(params):
        key = jax.random.key(6)
        return toybox_model.clean_image_loss(params, parts.networks, SCHEDULE, key, z, ids)

    fresh = toybox_model.init_state(parts.networks, parts.config)
    with Checkpointer(straight) as checkpoints:
        assert checkpoints.latest_step() == STEPS
        trained = checkpoints.restore(fresh)
    assert int(trained.step) == STEPS
    before, after = float(loss(fresh.params)), float(loss(trained.params))
    assert after < 0.7 * before
    assert before < 100 and float(loss(trained.ema)) < before


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(
    straight, bank, tmp_path, monkeypatch, capsys
):
    folder, calls = tmp_path / "prior", []

    def press_at_eleven(*args, **kwargs):
        calls.append(None)
        if len(calls) == 11:
            signal.raise_signal(signal.SIGINT)
        return toybox_model.train_step(*args, **kwargs)

    monkeypatch.setattr(toybox_loop, "train_step", press_at_eleven)
    with pytest.raises(SystemExit) as stopped:
        train_toybox.main(command(folder, bank))
    assert stopped.value.code == 130 and len(calls) == 11
    assert "the same command goes on" in capsys.readouterr().err
    toybox.load(folder)
    train_toybox.main(command(folder, bank))
    assert "going on from step 11" in capsys.readouterr().out and len(calls) == STEPS
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        f"samples/{STEPS:06d}.png",
    ):
        assert (folder / name).read_bytes() == (straight / name).read_bytes()
    train_toybox.main(command(folder, bank))  # Done already: nothing more to do.
    assert len(calls) == STEPS
    (stage,) = (told := History.read(folder)).stages
    # Once after Ctrl-C; the last command did nothing, and so wrote nothing.
    assert (stage.first, stage.last, stage.times_resumed, told.pictures) == (0, 24, 1, 96)
    assert [step for step, *_ in told.losses] == sorted({step for step, *_ in told.losses})


def test_a_training_stops_when_its_time_is_over(bank, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_toybox.main(command(tmp_path / "prior", bank, "--minutes", "1e-6"))
    assert stopped.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    assert History.read(tmp_path / "prior").steps == 1


@pytest.mark.slow
def test_a_training_begins_with_the_averaged_weights_of_another(straight, bank, tmp_path, capsys):
    """The same folder's, so that all fit; steps are counted on, and the rate rises anew."""
    folder = tmp_path / "prior"
    more = ["--start", str(straight), "--optimization.steps", str(STEPS + 1)]
    train_toybox.main(command(folder, bank, *more, "--optimization.learning-rate", "1e-9"))
    assert "100.0% of the weights" in capsys.readouterr().out
    for old, new in zip(
        *(jax.tree.leaves(toybox.load(f)[1]) for f in (straight, folder)), strict=True
    ):
        np.testing.assert_allclose(new, old, atol=1e-3)
    told = History.read(folder)
    assert told.steps == STEPS + 1 and told.pictures == 4 * (STEPS + 1)
    assert [stage.start for stage in told.stages] == [None, "prior"]
    with Checkpointer(folder) as checkpoints:
        assert checkpoints.latest_step() == STEPS + 1


def test_diffusers_reads_what_was_trained(straight):
    prior, params = toybox.load(straight)
    prompts = ["a red barrel, front view", ""]
    unet = UNet2DConditionModel.from_pretrained(straight / "unet", torch_dtype=torch.float32)
    text, report = CLIPTextModel.from_pretrained(
        straight / "text_encoder", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    z = np.random.default_rng(0).normal(size=(2, 4, 4, 12)).astype(np.float32)
    words = CLIPTokenizer.from_pretrained(straight / "tokenizer")
    ids = architecture.tokenize(words, prompts)
    with torch.no_grad():
        states = text(torch.from_numpy(np.array(ids)).long()).last_hidden_state
        clean = unet(torch.from_numpy(z).permute(0, 3, 1, 2), torch.tensor([400, 400]), states)
    t = jnp.full(2, 0.4005)
    eps = prior.predict_eps(params, jnp.asarray(z), t, prior.encode_text(params, prompts))
    ours = prior.schedule.x_from_eps(eps, jnp.asarray(z), t)
    assert relative_error(ours, clean.sample.permute(0, 2, 3, 1).numpy()) < 1e-4
    halves = [p.stat().st_size for p in straight.rglob("*.safetensors")]
    assert sum(halves) < 2.2 * sum(x.size for x in jax.tree.leaves(params))


def test_samples_of_a_prompt(straight, tmp_path, capsys):
    file = tmp_path / "new" / "grid.png"
    options = ["--weights", str(straight), "--steps", "2", "--seeds", "2"]
    sample.main([*options, "--prompt", "a red barrel", "--output", str(file)])
    assert file.read_bytes().startswith(b"\x89PNG") and str(file) in capsys.readouterr().out
    for bad, message in (
        ([*options, "--prompt", "a red dragon"], "'dragon'"),
        (["--weights", str(tmp_path)], "holds no toybox prior"),
        ([*options, "--seeds", "0"], "at least 1"),
    ):
        assert message in refusal(sample.main, bad, capsys)


def refusal(main, argv, capsys):
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing(straight, bank, tmp_path, monkeypatch, capsys):
    parts = parts_of(straight, bank)
    fresh = toybox_model.init_state(parts.networks, parts.config)
    broken = jax.tree.map(jnp.copy, fresh)
    broken.params["unet"]["conv_out"]["bias"] = jnp.full(12, jnp.inf)
    kept, loss = toybox_model.train_step(
        broken,
        *parts.batch,
        SCHEDULE,
        networks=parts.networks,
        config=parts.config,
        block=2,
    )
    assert np.isnan(loss) and int(kept.step) == 0
    for name in ("unet", "text_encoder"):
        for a, b in zip(
            jax.tree.leaves(kept.ema[name]), jax.tree.leaves(fresh.params[name]), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def fail_from_the_tenth(state, *args, **kwargs):
        if int(state.step) == 10:
            return state, jnp.array(jnp.nan)
        return toybox_model.train_step(state, *args, **kwargs)

    folder = tmp_path / "prior"
    monkeypatch.setattr(toybox_loop, "train_step", fail_from_the_tenth)
    message = refusal(train_toybox.main, command(folder, bank), capsys)
    assert "not finite after step 10" in message
    with Checkpointer(folder) as checkpoints:
        assert checkpoints.latest_step() == 10
    toybox.load(folder)


def test_what_makes_no_sense_is_refused(straight, bank, tmp_path, capsys):
    for more, message in (
        (["--optimization.steps", "0"], "--optimization.steps must be at least 1"),
        (["--model.block", "3"], "multiple of --model.block"),
        (["--model.image-size", "16"], "views of 8 pixels; the prior draws 16"),
        (["--bank", "/nowhere"], "/nowhere holds no traced views"),
        (["--nonsense", "1"], "unknown option --nonsense"),
        (["--vocabulary.categories", "unicorn"], "no 'unicorn'"),
        (["--model.attention", "False", "True"], "levels"),
    ):
        folder = tmp_path / "-".join(more)
        assert message in refusal(train_toybox.main, command(folder, bank, *more), capsys)
    changed = command(straight, bank, "--optimization.learning-rate", "1e-3")
    changed = refusal(train_toybox.main, changed, capsys)
    assert "begun with other settings (optimization)" in changed
    foreign = tmp_path / "foreign"
    architecture.write_configs(foreign, SMALL.model, Vocabulary(), toybox_loop.build_tokenizer())
    assert "another origin" in refusal(train_toybox.main, command(foreign, bank), capsys)


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        train_toybox.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for word in (
        "--preset",
        "--optimization.steps",
        "--bfloat16",
        "--output",
        "--model.channels",
        "Ctrl-C",
    ):
        assert word in text


def test_presets_are_consistent_and_fit():
    tokenizer = toybox_loop.build_tokenizer()
    for settings in (SMALL, WHOLE, dataclasses.replace(WHOLE, model=BY_TWO)):
        networks = toybox_model.make_networks(settings.model, tokenizer, jnp.float32)
        shapes = networks.shapes()
        half = sum(2 * leaf.size for leaf in jax.tree.leaves(shapes))
        assert half < 25e6
        side = settings.model.image_size // settings.model.block
        assert side // 2 ** (len(settings.model.channels) - 1) == 2
        assert np.all(allowed_colours(settings.vocabulary).any(axis=1))
    parsed = train_toybox.parse(["--preset", "small", "--optimization.seed", "3"]).settings
    assert parsed.vocabulary == SMALL.vocabulary and parsed.optimization.seed == 3
    captions = grid_captions(Vocabulary())
    assert len(captions) == 16 and sum("held out" in label for label in captions.values()) == 6
    for text, label in captions.items():
        scene = Vocabulary().scene(text)
        triple = (scene.category, scene.modifier, scene.modifier_colour)
        held_out = (scene.category, scene.colour) in HELD_OUT or triple in HELD_OUT_MODIFIED
        assert held_out == ("held out" in label)
    assert sum(Vocabulary().scene(text).modifier is not None for text in captions) == 4


def test_the_learning_rate_rises_and_falls():
    config = Optimization(steps=100, warm_up=10, learning_rate=1.0, ema=0.9)
    rates = np.array([learning_rate(config, step) for step in range(101)])
    expected = [min(1, (s + 1) / 10) * (1 + np.cos(np.pi * s / 100)) / 2 for s in range(101)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    # A cosine at the end alone; none; and a second start at step 40.
    late = dataclasses.replace(config, decay=20)
    expected = [
        min(1, (s + 1) / 10) * (1 + np.cos(np.pi * max(s - 80, 0) / 20)) / 2 for s in range(101)
    ]
    np.testing.assert_allclose([learning_rate(late, s) for s in range(101)], expected, atol=1e-6)
    never = dataclasses.replace(config, decay=0)
    assert [float(learning_rate(never, s)) for s in (0, 9, 99, 10**6)] == pytest.approx(
        [0.1, 1, 1, 1]
    )
    assert float(learning_rate(never, 44, 40)) == pytest.approx(0.5)
    decays = [float(ema_decay(config, step)) for step in (0, 9, 10**6)]
    np.testing.assert_allclose(decays, [0.1, 10 / 19, 0.9], rtol=1e-6)


def test_batches_follow_from_the_step_and_see_a_bank_that_grows(bank, tmp_path):
    folder = tmp_path / "bank"
    write_views(folder, ("barrel", None), 0, 2, BankConfig(size=8))
    settings = train_toybox.parse(command(tmp_path / "prior", folder)).settings
    batches = Batches(settings, toybox_loop.build_tokenizer())
    (paints, ids), (again, same) = batches.plan(3), batches.plan(3)
    np.testing.assert_array_equal(ids, same)
    np.testing.assert_array_equal(paints.layers, again.layers)
    assert paints.seed != batches.plan(4)[0].seed
    write_views(folder, ("barrel", None), 1, 2, BankConfig(size=8))
    assert batches.bank.count(("barrel", None)) == 2
    batches.reopen()
    assert batches.bank.count(("barrel", None)) == 4


def test_other_processes_draw_the_same_batches_in_turn(bank, tmp_path):
    settings = train_toybox.parse(command(tmp_path / "prior", bank)).settings
    here = Batches(settings, toybox_loop.build_tokenizer(), by_number=True)
    with drawn_elsewhere(settings, 5, workers=2) as batches:
        for step in (5, 6, 7):
            paints, ids = next(batches)
            expected, same = here.plan(step)
            np.testing.assert_array_equal(ids, same)
            jax.tree.map(np.testing.assert_array_equal, paints, expected)


def test_a_step_compiled_ahead_is_the_step(straight, bank, tmp_path):
    """It takes real pictures, though it was compiled with others."""
    words = command(tmp_path / "prior", bank, "--optimization.batch-size", "32")
    trial = Trial(train_toybox.parse(words).settings, jnp.float32)
    assert trial.take(2) > 0
    parts = parts_of(straight, bank)
    fresh = functools.partial(toybox_model.init_state, parts.networks, parts.config)
    found, loss = trial.step(fresh(), *parts.batch, SCHEDULE, last=np.int32(STEPS))
    kept, expected = toybox_model.train_step(
        *(fresh(), *parts.batch, SCHEDULE),
        networks=parts.networks,
        config=parts.config,
        block=2,
        last=np.int32(STEPS),
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name in ("params", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            *(getattr(state, name) for state in (found, kept)),
        )


def test_a_training_is_complete_when_its_time_is_over(bank, tmp_path, monkeypatch, capsys):
    """The last step is found on the way: the rate has nearly fallen to zero there."""
    rates, clock = [], [0.0]

    def step(state, paints, ids, schedule, *, networks, config, block, last):
        clock[0] += 1.0
        rates.append(float(learning_rate(config, state.step, 0, last)))
        return dataclasses.replace(state, step=state.step + 1), jnp.zeros(())

    monkeypatch.setattr(toybox_loop, "train_step", step)
    for module in (toybox_loop, toybox_report):
        names = SimpleNamespace(monotonic=lambda: clock[0], perf_counter=lambda: clock[0])
        monkeypatch.setattr(module, "time", names)
    minute = command(tmp_path / "prior", bank, "--minutes", "1", "--fit", "--optimization.decay")
    settings = train_toybox.parse([*minute, "None", "--optimization.steps", "1000"])
    toybox_loop.Training(settings.settings, settings.running).run()
    assert len(rates) == pytest.approx(60, abs=2) and rates[-1] < 0.01 * max(rates)
    told = History.read(tmp_path / "prior")
    assert told.stages[-1].settings["steps"] == pytest.approx(60, abs=2)
    assert "same command" not in capsys.readouterr().err

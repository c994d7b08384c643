"""Pictures of scenes from the command line, and what it says of bad input."""

import json

import imageio_ffmpeg
import mediapy
import numpy as np
import pytest
from helpers.programs import command, refused
from helpers.toys import toy
from PIL import Image

from experiments.render import main

SMALL = ("--width", "24", "--height", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    toy().save(folder / "toy.safetensors")
    two = [
        {"run": "toy.safetensors", "position": [0, 0.3, 0], "turn": 40, "size": 0.5},
        {"run": "toy.safetensors", "position": [0, -0.3, 0], "size": 0.5},
    ]
    (folder / "two.json").write_text(json.dumps({"objects": two}))
    (folder / "cameras.json").write_text('[{"position": [0, 0, 3]}, {"position": [3, 0, 0]}]')
    return folder


def draw(folder, scene, name, *options):
    """The picture, or pictures, as the file has them."""
    out = folder / name
    main([str(folder / scene), *SMALL, "--output", str(out), *map(str, options)])
    with Image.open(out) as picture:
        frames = []
        for frame in range(getattr(picture, "n_frames", 1)):
            picture.seek(frame)
            frames.append(np.asarray(picture.convert("RGBA")))
    return np.stack(frames)


@pytest.mark.slow
def test_the_command_writes_a_video_of_two_objects_with_shadows(folder):
    out = folder / "video.mp4"
    options = (*SMALL, "--frames", 2, "--path", "spiral", "--shadows", "--output", out)
    result = command("render", folder / "two.json", *options)
    assert result.returncode == 0, result.stderr
    assert "frame 2 of 2" in result.stdout
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    assert mediapy.read_video(out).shape == (2, 16, 24, 3)


def test_two_objects_stand_side_by_side_with_air_between(folder):
    picture = draw(folder, "two.json", "two.png", "--frames", 1, "--background", "none")[0]
    column = picture[..., 3].max(axis=0).astype(int)
    assert column[6] > 200 and column[17] > 200 and column[[11, 12]].min() < 100


def test_opacity_and_straight_colours_give_the_picture_over_a_background(folder):
    clear = draw(folder, "toy.safetensors", "a.webp", "--frames", 2, "--background", "none")
    assert clear.shape == (2, 16, 24, 4)
    clear = draw(folder, "toy.safetensors", "a.png", "--frames", 1, "--background", "none")[0]
    plain = draw(folder, "toy.safetensors", "b.png", "--frames", 1, "--background", 0, 0, 1)[0]
    opacity = clear[..., 3:] / 255
    assert opacity.min() < 0.05 and opacity.max() > 0.95
    over = opacity * clear[..., :3] + (1 - opacity) * [0, 0, 255]
    np.testing.assert_allclose(plain[..., :3], over, atol=2)


def test_light_of_a_red_sky_is_red_and_the_sky_is_behind(folder):
    Image.new("RGB", (16, 8), (255, 0, 0)).save(folder / "sky.png")
    sky = ("--environment", folder / "sky.png", "--background", "environment")
    picture = draw(folder, "toy.safetensors", "c.png", "--frames", 1, "--brightness", 0, *sky)[0]
    assert picture[0, 0].tolist() == [255, 0, 0, 255]
    assert picture[..., 1:3].max() == 0


def test_cameras_are_read_and_frames_become_numbered_files(folder):
    options = ("--cameras", folder / "cameras.json", "--output", folder / "seen.png")
    main([str(folder / "toy.safetensors"), *SMALL, *map(str, options)])
    assert sorted(p.name for p in folder.glob("seen*")) == ["seen-0000.png", "seen-0001.png"]


def test_a_gif_has_all_frames(folder):
    assert draw(folder, "toy.safetensors", "d.gif", "--frames", 3).shape[0] == 3


def test_a_brighter_lamp_is_brighter(folder):
    dim, bright = (
        draw(folder, "toy.safetensors", "e.png", "--frames", 1, "--brightness", b)[0]
        for b in (0.2, 0.7)
    )
    assert bright[..., :3].astype(int).sum() > dim[..., :3].astype(int).sum() + 1000


def test_several_scenes_get_a_file_each(folder, capsys):
    scenes = [str(folder / name) for name in ("toy.safetensors", "two.json")]
    main([*scenes, *SMALL, "--frames", "1", "--output", str(folder / "each.png")])
    written = capsys.readouterr().out
    pictures = []
    for name in ("each-toy.png", "each-two.png"):
        assert name in written
        with Image.open(folder / name) as picture:
            pictures.append(np.asarray(picture.convert("RGB"), int))
    assert np.abs(pictures[0] - pictures[1]).max() > 50
    alone = draw(folder, "toy.safetensors", "alone.png", "--frames", 1)[0, ..., :3]
    np.testing.assert_array_equal(pictures[0], alone)


def test_ctrl_c_ends_it_with_a_word(folder, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.render.render_view", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([str(folder / "toy.safetensors"), "--output", str(folder / "never.mp4")])
    assert stop.value.code == 130 and capsys.readouterr().err == "stopped\n"
    assert not (folder / "never.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "name a run"),
        (["toy.safetensors", "./toy.safetensors"], "two scenes are called toy"),
        (["nowhere"], "nowhere"),
        (["nowhere.json"], "nowhere.json"),
        (["broken.json"], "broken.json"),
        (["unknown.json"], "colour"),
        (["none.json"], "names no objects"),
        (["flat.json"], "size"),
        (["toy.safetensors", "--environment", "sky-that-is-not.png"], "no environment picture"),
        (["toy.safetensors", "--output", "a.avi"], ".avi"),
        (["toy.safetensors", "--output", "a.mp4", "--background", "none"], "no opacity"),
        (["toy.safetensors", "--background", "environment"], "--environment"),
        (["toy.safetensors", "--frames", "0"], "--frames"),
        (["toy.safetensors", "--width", "-3"], "--width"),
        (["toy.safetensors", "--light", "1", "2"], "--light"),
        (["toy.safetensors", "--ambient", "-1"], "--ambient"),
        (["toy.safetensors", "--cameras", "nowhere.json"], "nowhere.json"),
        (["toy.safetensors", "--path", "zigzag"], "zigzag"),
    ],
)
def test_bad_input_is_named_in_one_line(folder, capsys, monkeypatch, arguments, named):
    bad = {
        "broken.json": "{",
        "unknown.json": '{"objects": [{"run": "toy.safetensors", "colour": "red"}]}',
        "none.json": '{"objects": []}',
        "flat.json": '{"objects": [{"run": "toy.safetensors", "size": 0}]}',
    }
    for name, text in bad.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    assert named in refused(main, capsys, *arguments)
    assert set(folder.iterdir()) == before

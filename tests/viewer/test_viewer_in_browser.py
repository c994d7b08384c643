"""The viewer's page in a real browser: it is not blank, it obeys, and it ends with its program."""

import io
import math
import re
import signal
import socket
import subprocess
import sys

import imageio_ffmpeg
import mediapy
import numpy as np
import pytest
from helpers.browser import (
    asked_for,
    errors_of,
    is_blank,
    opened,
    picture_of,
    wait_until,
)
from helpers.small_scenes import CONFIG, ball
from PIL import Image

pytestmark = pytest.mark.browser

WINDOW = (760, 440)
"""Small: it is drawn without a GPU."""
VIEW = {"x": 20, "y": 150, "width": 400, "height": 280}
"""Part of it that no panel covers."""
RED = (0.9, 0.1, 0.1)


def begin(*words):
    """Starts a program; waits for the address that it says."""
    program = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert program.stdout is not None
    said = []
    for line in program.stdout:
        said.append(line)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            return program, found[0]
    raise AssertionError("".join(said))


def closed(address):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


def scene_in(page):
    with Image.open(io.BytesIO(page.screenshot(clip=VIEW))) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


def pixels_in(page, colour):
    """Where in the view one channel is well above the others."""
    others = [channel for channel in range(3) if channel != colour]
    view = scene_in(page)
    return view[..., colour] > view[..., others].max(-1) + 60


def colour_in(page, colour):
    """Share of the view where one channel is well above the others."""
    return float(pixels_in(page, colour).mean())


def patch(page, to_the_right=0):
    """Mean colour [3] of a patch so many pixels beside the middle of the window."""
    row, column = WINDOW[1] // 2 - VIEW["y"], WINDOW[0] // 2 - VIEW["x"] + to_the_right
    return scene_in(page)[row - 8 : row + 8, column - 8 : column + 8].mean((0, 1)) / 255


def looks_like(page, colour):
    """Whether the middle of the window has a colour, but for what JPEG does to it."""
    return bool(np.abs(patch(page) - colour).max() < 0.06)


def balance(page):
    """How much brighter the red ball is on its left than on its right."""
    return patch(page, -60)[0] / patch(page, 30)[0]


def drag(page, by):
    page.mouse.move(250, 350)
    page.mouse.down()
    page.mouse.move(250 + by, 350, steps=8)
    page.mouse.up()


def box_of(page, name):
    """The box beside a slider."""
    row = page.get_by_text(name, exact=True).locator("xpath=ancestor::*[.//input][1]")
    return row.locator("input").last


def number_in(page, name):
    return float(box_of(page, name).input_value())


def type_into(page, name, value):
    """Types a number into the box of a slider."""
    box = box_of(page, name)
    box.fill(str(value))
    box.press("Enter")


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scenes = {
        "red": ball(0.3, RED),
        "blue": ball(0.2, (0.1, 0.1, 0.9), (0.0, 0.1, 0.0)),
        "empty": ball(-1.0),
    }
    files = [str(folder / f"{name}.safetensors") for name in scenes]
    for scene, file in zip(scenes.values(), files, strict=True):
        scene.save(file)
    program, address = begin(
        *("experiments.view", *files, "--port", "0"),
        *("--sizes.coarse", "48", "--sizes.fine", "96"),
    )
    try:
        with opened(browser, address, WINDOW) as window:
            window.wait_for_selector("canvas", timeout=60_000)
            wait_until(window, lambda: colour_in(window, 0) > 0.02, 120)
            yield window
            assert asked_for(window, address) == []
    finally:
        program.send_signal(signal.SIGTERM)
        said, _ = program.communicate(timeout=60)
        assert (program.returncode, said) == (0, "")
        assert closed(address)


def test_the_scene_is_there(page):
    assert not is_blank(picture_of(page.locator("canvas").first))
    assert errors_of(page) == []


def test_a_slider_changes_the_picture_and_the_way_it_should(page):
    assert patch(page)[0] > 0.3
    type_into(page, "ambient", 0)
    type_into(page, "diffuse", 0)
    wait_until(page, lambda: looks_like(page, (0, 0, 0)))
    type_into(page, "ambient", 1)
    wait_until(page, lambda: looks_like(page, RED))


def test_the_light_has_a_direction(page):
    """From the left of the first camera, which stands at 30 degrees, and from its right."""
    type_into(page, "ambient", 0.35)
    type_into(page, "diffuse", 0.65)
    type_into(page, "azimuth", -60)
    wait_until(page, lambda: balance(page) > 1.3)
    type_into(page, "azimuth", 120)
    wait_until(page, lambda: balance(page) < 0.8)


def handle_in(page):
    """Pixels [N, 2] (row, column) of the lamp's green handle, an arrow that points to the right."""
    view = scene_in(page)
    return np.argwhere((view[..., 1] > 150) & (view[..., [0, 2]].max(-1) < 160))


def test_the_lamp_may_be_dragged(page):
    """By the green handle, which moves it along y: then the sliders and the shading follow."""
    type_into(page, "azimuth", -20)
    type_into(page, "elevation", 0)
    wait_until(page, lambda: len(handle_in(page)) > 40 and balance(page) > 1.3)
    before, handle = balance(page), handle_in(page)
    head = handle[handle[:, 1] >= np.percentile(handle[:, 1], 85)]
    row, column = np.median(head, axis=0)
    x, y = VIEW["x"] + column, VIEW["y"] + row
    page.mouse.move(x, y)
    page.wait_for_timeout(500)  # The handle notices the mouse in the next picture that it draws.
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=8)
    page.mouse.up()
    wait_until(page, lambda: number_in(page, "azimuth") > -15)
    wait_until(page, lambda: balance(page) < before - 0.1)


def test_every_kind_of_picture_has_the_colours_that_it_should(page):
    """Of the point nearest to the camera, which looks down by 20 degrees, in half the light."""
    type_into(page, "ambient", 0.5)
    type_into(page, "diffuse", 0)
    normal = spherical(math.radians(30), math.radians(20))
    distance, radius = 2.5 * CONFIG.scene.sampling.radius, CONFIG.scene.sampling.radius
    nearness = (distance + radius - (distance - 0.29)) / (2 * radius)  # Its edge is soft.
    expected = {
        "albedo": RED,
        "textureless": (0.5, 0.5, 0.5),
        "normals": 0.5 + 0.5 * np.array(normal),
        "depth": (nearness, nearness, nearness),
        "shaded": 0.5 * np.array(RED),
    }
    for kind, colour in expected.items():
        choose(page, "picture", kind)
        wait_until(page, lambda colour=colour: looks_like(page, colour))
    type_into(page, "ambient", 1)
    wait_until(page, lambda: looks_like(page, RED))


def spherical(azimuth, elevation):
    """The unit vector of two angles."""
    flat = math.cos(elevation)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)


def choose(page, name, option):
    row = page.get_by_text(name, exact=True).locator("xpath=ancestor::*[.//input][1]")
    row.locator("input").first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_mesh_stands_beside_it_and_goes_again(page):
    before = colour_in(page, 0)
    box = page.get_by_role("checkbox").first
    box.check()
    wait_until(page, lambda: colour_in(page, 0) > 1.3 * before)
    box.uncheck()
    wait_until(page, lambda: colour_in(page, 0) < 1.2 * before)


def test_pictures_are_taken_away(page, tmp_path):
    with page.expect_download(timeout=120_000) as waiting:
        page.get_by_role("button", name="screenshot").click()
    waiting.value.save_as(tmp_path / "shot.png")
    assert waiting.value.suggested_filename == "red-shaded.png"
    with Image.open(tmp_path / "shot.png") as picture:
        pixels = np.asarray(picture)
        assert min(pixels.shape[:2]) == 96
        assert (pixels[..., 0] > pixels[..., 1].astype(int) + 60).mean() > 0.02
    with page.expect_download(timeout=120_000) as waiting:
        page.get_by_role("button", name="turntable").click()
    waiting.value.save_as(tmp_path / "turn.mp4")
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    assert mediapy.read_video(tmp_path / "turn.mp4").shape == (48, 96, 96, 3)


def test_turning_it_moves_it_and_another_run_replaces_it(page):
    red = colour_in(page, 0)
    choose(page, "run", "blue")
    # The lamp's own handles have these colours as well.
    wait_until(page, lambda: colour_in(page, 2) > 0.005 and colour_in(page, 0) < 0.3 * red)

    def place():
        return np.argwhere(pixels_in(page, 2)).mean(axis=0)

    before = place()
    drag(page, 150)
    wait_until(page, lambda: np.abs(place() - before).max() > 5)


def test_an_empty_scene_says_that_it_has_no_mesh(page):
    choose(page, "run", "empty")
    wait_until(page, lambda: colour_in(page, 2) < 0.005)
    page.get_by_role("checkbox").first.check()
    page.get_by_text("there is no mesh").wait_for()
    assert page.get_by_text("no line of sight through it is half opaque").count() == 1
    page.get_by_role("checkbox").first.uncheck()


def test_a_run_is_watched_paused_and_stepped_while_it_trains(browser, tmp_path):
    program, address = begin(
        *("experiments.run", "--prompt", "a red mushroom", "--prior", "oracle"),
        *("--steps", "100000", "--train.views", "1", "--scene.sampling.intervals", "12"),
        *("--output.preview-every", "100000", "--output.checkpoint-every", "100000"),
        *("--output", str(tmp_path), "--viewer", "--port", "0"),
    )

    def step(page, so=""):
        """The step that the page says the run is at; 0 while it says no such thing."""
        found = re.search(rf"step (\d+) of 100000{so}", page.locator("body").inner_text())
        return int(found[1]) if found else 0

    with opened(browser, address, WINDOW) as page:
        wait_until(page, lambda: step(page) > 1, 300)
        page.get_by_role("button", name="one step").click()  # Pauses as well.
        wait_until(page, lambda: step(page, ", paused") > 0)
        assert page.get_by_role("checkbox").last.is_checked()
        before = step(page)
        page.wait_for_timeout(2000)
        assert step(page) == before
        page.get_by_role("button", name="one step").click()
        wait_until(page, lambda: step(page, ", paused") == before + 1)
        assert page.get_by_text("shown to the prior, t = ").count() == 1
        page.get_by_role("checkbox").last.uncheck()
        wait_until(page, lambda: step(page) > before + 2)
    program.send_signal(signal.SIGTERM)
    said, _ = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM and "go on with --resume" in said
    assert closed(address)

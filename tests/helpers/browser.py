"""A real headless Chromium with software WebGL, for looking at pages as a user does.

    with chromium() as browser, opened(browser, "file:///...") as page:
        page.wait_for_selector("canvas")
        assert not is_blank(picture_of(page))
        assert asked_for(page) == []

While `chromium` is open its thread has a running event loop, in which orbax cannot read or
write: what needs orbax (runs, checkpoints) is done before, or in another process.
"""

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

DESKTOP, PHONE = (1280, 800), (390, 844)
"""Width and height of windows, pixels."""

_PATIENCE = 120_000
"""Milliseconds: without a GPU, on a busy machine, a picture may take half a minute."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_OPENED: "dict[Page, tuple[list[str], list[str]]]" = {}


@contextlib.contextmanager
def chromium() -> "Iterator[Browser]":
    """Starts the Chromium of this machine.

    Raises:
        FileNotFoundError: There is none.
    """
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        raise FileNotFoundError("these tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_SWITCHES])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: "Browser", address: str, size: tuple[int, int] = DESKTOP) -> "Iterator[Page]":
    """A window of a size with the page of an address, whose requests and errors are noted."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(_PATIENCE)
    page = context.new_page()
    requests, errors = _OPENED[page] = ([], [])
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    try:
        page.goto(address)
        yield page
    finally:
        del _OPENED[page]
        context.close()


def asked_for(page: "Page", own: str = "file://") -> list[str]:
    """Addresses outside of `own` that the page and its frames have asked for."""
    inside = (own, "data:", "blob:", "about:")
    return [address for address in _OPENED[page][0] if not address.startswith(inside)]


def errors_of(page: "Page") -> list[str]:
    """Exceptions of the page's scripts, and what they wrote to the console as errors."""
    return _OPENED[page][1]


def picture_of(shown: "Page | Locator") -> np.ndarray:
    """What the window, or an element, looks like: [H, W, 3] bytes as integers."""
    with Image.open(io.BytesIO(shown.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


def is_blank(picture: np.ndarray) -> bool:
    """Whether fewer than one in a hundred pixels differ from the commonest colour."""
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    difference = np.abs(picture - colours[counts.argmax()]).max(-1)
    return bool((difference > 8).mean() < 0.01)


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the pixels that differ visibly between two pictures of one size."""
    return float((np.abs(after - before).max(-1) > 8).mean())


def wait_until(page: "Page", condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Lets the page live until a condition holds.

    Raises:
        AssertionError: It does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s; {errors_of(page)}"
        page.wait_for_timeout(100)

"""A run's page and the gallery, from disk, as people see them: on a desktop and on a phone."""

import pytest
from helpers.browser import (
    DESKTOP,
    PHONE,
    asked_for,
    changed,
    errors_of,
    is_blank,
    opened,
    picture_of,
    wait_until,
)
from helpers.small_scenes import written_run

from dreamfusion_jax.pages.gallery import write_gallery

pytestmark = pytest.mark.browser
EVIL = "a <b>blue</b> ball <script>document.title = 'hit'</script>"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    written_run(folder / "one", "a red ball", 0, residual=0.5)
    written_run(folder / "two", EVIL, 1, residual=0.75)
    written_run(folder / "three", "a green cube", 2, residual=0.25)
    return write_gallery(folder, lambda settings: "python -m experiments.run " + "--long x " * 40)


def fits(page):
    """Whether nothing sticks out to the right of the window."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_run_has_a_page_with_a_mesh_to_turn(gallery, browser, size):
    with opened(browser, (gallery.parent / "two" / "index.html").as_uri(), size) as page:
        assert page.locator("h1").inner_text() == EVIL
        assert page.title() == f"{EVIL}, seed 1"
        frame = page.locator("iframe")
        frame.scroll_into_view_if_needed()
        page.frame_locator("iframe").locator("canvas").wait_for(timeout=60_000)
        wait_until(page, lambda: not is_blank(picture_of(frame)))
        box, before = frame.bounding_box(), picture_of(frame)
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        wait_until(page, lambda: changed(before, picture_of(frame)) > 0.001)
        assert page.locator("svg polyline").count() == 4
        broken = "[...document.images].filter(image => !image.naturalWidth).length"
        assert page.locator("img").count() == 2 and page.evaluate(broken) == 0
        assert fits(page)
        assert asked_for(page) == [] and errors_of(page) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_gallery_is_searched_and_sorted(gallery, browser, size):
    with opened(browser, gallery.as_uri(), size) as page:

        def prompts():
            return [
                card.get_attribute("data-prompt") for card in page.locator(".card:visible").all()
            ]

        assert set(prompts()) == {"a red ball", EVIL, "a green cube"}
        assert not page.evaluate("document.title === 'hit'")
        page.select_option("#order", "residual_0.2")
        assert prompts() == ["a green cube", "a red ball", EVIL]
        assert page.locator(".value").first.inner_text() == "residual_0.2 0.25"
        page.click("#turn")
        assert prompts() == [EVIL, "a red ball", "a green cube"]
        page.select_option("#order", "prompt")
        page.fill("#search", "BALL seed")
        assert prompts() == ["a red ball", EVIL]
        assert fits(page)
        assert asked_for(page) == [] and errors_of(page) == []
        page.locator(".card:visible").first.click()
        assert page.url == (gallery.parent / "one" / "index.html").as_uri()

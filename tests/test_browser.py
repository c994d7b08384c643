"""The browser of the tests itself: it draws WebGL, and sees what pages ask for."""

import pytest
from helpers.browser import asked_for, changed, errors_of, is_blank, opened, picture_of

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><canvas id="empty"></canvas><canvas id="full"></canvas>
<img src="http://192.0.2.1/x.png"><script>
const gl = document.getElementById("full").getContext("webgl2", {preserveDrawingBuffer: true});
function fill(red) { gl.enable(gl.SCISSOR_TEST); gl.scissor(0, 0, 150, 150);
  gl.clearColor(red, 0, 0, 1); gl.clear(gl.COLOR_BUFFER_BIT); }
fill(1);
</script>"""


def test_it_draws_webgl_and_tells_blank_from_drawn_and_before_from_after(browser, tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    with opened(browser, (tmp_path / "page.html").as_uri()) as page:
        full = page.locator("#full")
        before = picture_of(full)
        assert before.shape == (150, 300, 3) and not is_blank(before)
        assert is_blank(picture_of(page.locator("#empty")))
        page.evaluate("fill(0)")
        assert 0.4 < changed(before, picture_of(full)) < 0.6
        assert asked_for(page) == ["http://192.0.2.1/x.png"]
        page.evaluate("setTimeout(() => nothing.here, 0)")
        page.wait_for_timeout(200)
        assert any("nothing is not defined" in error for error in errors_of(page))

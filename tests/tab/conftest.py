"""A browser and a page for the tab's tests."""

import pytest

from tests.shared import tab_browser


@pytest.fixture(scope="module")
def chromium():
    with tab_browser.browser() as found:
        yield found


VIEWPORT = {"width": 1440, "height": 1000}


@pytest.fixture(scope="module")
def window(chromium):
    """The one page of a file: a browser that has compiled its scripts loads it in half the time."""
    context = chromium.new_context(viewport=VIEWPORT, accept_downloads=True)
    found = context.new_page()
    found.set_default_timeout(tab_browser.PATIENCE * 1000)
    yield found
    context.close()


@pytest.fixture
def page(window):
    """A page that fails the test for an error, a violated policy or a request to elsewhere."""
    wrong = []
    listeners = {
        "pageerror": lambda error: wrong.append(str(error)),
        # The frame has no icon when it is opened by itself.
        "console": lambda said: (
            said.type == "error"
            and not said.location["url"].endswith("/favicon.ico")
            and wrong.append(f"{said.text} {said.location['url']}")
        ),
        "request": lambda request: "//127.0.0.1:" in request.url or wrong.append(request.url),
    }
    window.set_viewport_size(VIEWPORT)
    for event, listener in listeners.items():
        window.on(event, listener)
    yield window
    hacked = window.evaluate("window.hacked")
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    # Nothing of this test is there in the next one: no document, no setting, no pressed button.
    window.unroute_all()
    window.mouse.up()
    if window.url.startswith("http"):
        window.evaluate("localStorage.clear(), sessionStorage.clear()")
    window.goto("about:blank")
    assert [text for text in wrong if not text.startswith(("blob:", "data:"))] == []
    assert hacked is None

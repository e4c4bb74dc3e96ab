"""A browser and its pages for the tab's tests."""

import contextlib

import pytest

from tests.shared import tab_browser


@pytest.fixture(scope="module")
def chromium():
    with tab_browser.browser() as found:
        yield found


VIEWPORT = {"width": 1440, "height": 1000}


@pytest.fixture(scope="module")
def profile(chromium):
    """The scripts that it has compiled, every page after the first need not compile."""
    found = chromium.new_context(viewport=VIEWPORT, accept_downloads=True)
    found.set_default_timeout(tab_browser.PATIENCE * 1000)
    yield found
    found.close()


@contextlib.contextmanager
def watched(page):
    """Fails for an error, a violated policy or a request to elsewhere."""
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
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    hacked = page.evaluate("window.hacked")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert [text for text in wrong if not text.startswith(("blob:", "data:"))] == []
    assert hacked is None


@pytest.fixture(scope="module")
def window(profile):
    """The one page of the tests that act on it."""
    return profile.new_page()


@pytest.fixture
def page(window):
    """A page that a test may do anything with."""
    window.bring_to_front()  # behind another page, it would be drawn once a second
    window.set_viewport_size(VIEWPORT)
    try:
        with watched(window):
            yield window
    finally:
        # Nothing of this test is there in the next one: no document, setting or pressed button.
        window.unroute_all()
        window.mouse.up()
        if window.url.startswith("http"):
            window.evaluate("localStorage.clear(), sessionStorage.clear()")
        window.goto("about:blank")


@pytest.fixture(scope="module")
def look(profile, board):
    """Opens the tab's frame for tests that only look at it: once for all with the same choices."""
    frames = {}
    with contextlib.ExitStack() as watching:

        def frame(**choices):
            key = tuple(sorted(choices.items()))
            if key not in frames:
                found = profile.new_page()
                watching.enter_context(watched(found))
                frames[key] = tab_browser.opened(found, board, **choices)
            return frames[key]

        yield frame

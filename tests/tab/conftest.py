"""A browser and a page for the tab's tests."""

import pytest

from tests.shared import tab_browser


@pytest.fixture(scope="module")
def chromium():
    with tab_browser.browser() as found:
        yield found


@pytest.fixture
def page(chromium):
    """A page that fails the test for an error, a violated policy or a request to elsewhere."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    found = context.new_page()
    found.set_default_timeout(tab_browser.PATIENCE * 1000)
    wrong = []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on(
        "console",
        # The frame has no icon when it is opened by itself.
        lambda said: (
            said.type == "error"
            and not said.location["url"].endswith("/favicon.ico")
            and wrong.append(f"{said.text} {said.location['url']}")
        ),
    )
    found.on("request", lambda request: "//127.0.0.1:" in request.url or wrong.append(request.url))
    yield found
    hacked = found.evaluate("window.hacked")
    context.close()
    assert [text for text in wrong if not text.startswith(("blob:", "data:"))] == []
    assert hacked is None

"""A started TensorBoard and a browser that looks at it."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# TensorBoard imports TensorFlow where there is one, which takes seconds and serves no page of ours.
PATIENCE = 120.0  # seconds until something is taken to have failed; nothing is timed by it
DRAWN = "body[data-drawn]"
STRIP = 10  # pixels of a panel before its first column
SERVER = "from tensorboard.main import run_main; run_main()"
# TensorBoard imports TensorFlow where it finds it, which takes longer than all else it does.
SERVER_WITHOUT_TENSORFLOW = f"import sys; sys.modules['tensorflow'] = None; {SERVER}"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(ask, what):
    """The first true answer of `ask`."""
    end = time.monotonic() + PATIENCE
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {PATIENCE:.0f} s for {what}.")
        time.sleep(0.1)
    return answer


class Board:
    """A TensorBoard over HTTP."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/"

    def get(self, route, **parameters):
        """Status, headers and body of an answer, whatever the status."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}{route}?{query}", timeout=PATIENCE) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def up(self):
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return self.get("data/plugins_listing")[0] == 200
        return False


@contextlib.contextmanager
def tensorboard(logdir, *arguments, load_fast=True, reload_interval=1, scripts=None):
    """A TensorBoard; one that finds TensorFlow is run by `scripts`, which has imported it."""
    port = free_port()
    arguments = [
        *("--logdir", str(logdir), "--port", str(port), "--host", "127.0.0.1"),
        *("--load_fast", str(load_fast).lower(), "--reload_interval", str(reload_interval)),
        *arguments,
    ]
    with scripts.running(SERVER, *arguments) if scripts else _process(arguments) as runs:
        board = Board(port)

        def up():
            if not runs():
                raise RuntimeError(f"TensorBoard ended while it started, with {arguments}.")
            return board.up()

        wait_for(up, "TensorBoard")
        yield board


@contextlib.contextmanager
def _process(arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER_WITHOUT_TENSORFLOW, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield lambda: process.poll() is None
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextlib.contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield found
        finally:
            found.close()


def tab(page):
    """The frame of the tab, once it has drawn."""
    frame = page.frame_locator("iframe[src*='plugin_entry.html?name=layerwise']")
    frame.locator(DRAWN).wait_for(timeout=PATIENCE * 1000)
    return frame


def _address(choices):
    return "#layerwise" + "".join(
        f"&p.layerwise.{key}={urllib.parse.quote(value)}" for key, value in choices.items()
    )


def in_tensorboard(page, board, query="", **choices):
    """The tab in TensorBoard's own page."""
    page.goto(board.url + query + _address(choices))
    return tab(page)


def opened(page, board, **choices):
    """The tab's frame as a page: it is the same, without the seconds that TensorBoard's takes."""
    page.goto("about:blank")  # another address of the same page would not load it
    page.goto(f"{board.url}data/plugin_entry.html?name=layerwise{_address(choices)}")
    page.locator(DRAWN).wait_for(timeout=PATIENCE * 1000)
    return page


def chosen(page):
    """The choices in the address."""
    parts = [part.partition("=") for part in page.url.partition("#")[2].split("&")[1:]]
    return {k.removeprefix("p.layerwise."): urllib.parse.unquote(v) for k, _, v in parts}


def settle(frame, act):
    """Acts, and waits until the page has drawn what followed."""
    before = frame.locator("body").get_attribute("data-drawn")
    act()
    frame.locator(f"body[data-drawn]:not([data-drawn='{before}'])").wait_for()


def saved(page, button, path):
    """What a click of `button` saves, through a file at `path`."""
    with page.expect_download(timeout=30_000) as download:
        button.click()
    download.value.save_as(path)
    return path.read_bytes()


def labels(frame):
    items = frame.locator("#heatmap .item")
    return items.evaluate_all("all => all.map(e => e.title)")


def point_at(page, frame, row, column, columns, panel=0):
    """Moves the mouse to the middle of a cell of the heat-map; `row` by its label."""
    plot = frame.locator("#heatmap .panel").nth(panel)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    names = labels(frame)
    page.mouse.move(
        box["x"] + STRIP + (box["width"] - STRIP) * (column + 0.5) / columns,
        box["y"] + box["height"] * (names.index(row) + 0.5) / len(names),
    )

"""A started TensorBoard and a browser that looks at it."""

import contextlib
import os
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
PATIENCE = 30.0  # seconds until something is taken to have failed; nothing is timed by it
DRAWN = "body[data-drawn]"


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

    def __init__(self, process, port):
        self.process = process
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
        if self.process.poll() is not None:
            raise RuntimeError(f"TensorBoard ended with status {self.process.returncode}.")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return self.get("data/plugins_listing")[0] == 200
        return False


@contextlib.contextmanager
def tensorboard(logdir, *arguments, load_fast=True, reload_interval=1):
    port = free_port()
    command = [
        *(sys.executable, "-m", "tensorboard.main"),
        *("--logdir", str(logdir), "--port", str(port), "--host", "127.0.0.1"),
        *("--load_fast", str(load_fast).lower(), "--reload_interval", str(reload_interval)),
        *arguments,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        board = Board(process, port)
        wait_for(board.up, "TensorBoard")
        yield board
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

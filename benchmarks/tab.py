"""How long the tab takes, in a browser, over logs of the largest size it is meant for.

Needs Chromium, and the package installed.
"""

import json
import subprocess
import tempfile
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift import Figure
from keras_layerwise.storage import schema
from keras_layerwise.storage.events import EventWriter
from tests.shared import tab_browser

REPEATS = 3
WIDE = {"width": 1440, "height": 1000}


@dataclass(frozen=True)
class Size:
    """How much was logged; `shown` runs are chosen."""

    runs: int
    layers: int
    records: int
    statistics: int
    shown: int

    def __str__(self) -> str:
        return (
            f"{self.runs} runs × {self.layers} layers × {self.records} records × "
            f"{self.statistics} statistics, {self.shown} chosen"
        )


FEW_LONG = Size(runs=3, layers=500, records=10_000, statistics=8, shown=3)
MANY = Size(runs=100, layers=200, records=1_000, statistics=2, shown=100)
SIZES = {"sweep": MANY, "long": FEW_LONG}

# Milliseconds from choosing a statistic until its picture is on the screen, and until that
# picture has every record. The next change waits for it, so that each is timed by itself.
CHANGE = """async (_, name) => {
    const select = document.getElementById("statistic");
    const before = document.body.getAttribute("data-drawn");
    const start = performance.now();
    const until = (isThere) => new Promise((resolve) => {
        new MutationObserver((_, observer) => {
            if (!isThere(document.body)) return;
            observer.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
        }).observe(document.body, { attributes: true });
    });
    const pictures = [
        until((body) => body.getAttribute("data-statistic") === name),
        until((body) => body.getAttribute("data-drawn") !== before),
    ];
    select.value = name;
    select.dispatchEvent(new Event("change"));
    return Promise.all(pictures);
}"""
# Notes when the first picture is on the screen, in milliseconds since the frame began; who asks
# later would wait for what is drawn below it too.
FIRST = """
new MutationObserver((_, observer) => {
    if (!document.body?.dataset.statistic) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.firstPicture = performance.now(); }));
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-statistic"] });
"""


# Milliseconds until a group of the tree has opened, and a cursor was moved over the pictures
# and dragged over them: each a median of as many as a user would do. The last one is the mean
# time from frame to frame during a drag.
OPEN = """async () => {
    const item = document.querySelector("#heatmap [aria-expanded]");
    const painted = () =>
        new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const start = performance.now();
    item.click();
    await painted();
    const opened = performance.now() - start;
    await painted();
    const panel = document.querySelector("#heatmap .panel");
    const box = panel.getBoundingClientRect();
    const at = (i) => ({ bubbles: true, clientX: box.left + 20 + 4 * i, clientY: box.top + 10 });
    const moved = async () => {
        const moves = [];
        for (let i = 0; i < 20; i++) {
            const before = performance.now();
            panel.dispatchEvent(new PointerEvent("pointermove", at(i)));
            await painted();
            moves.push(performance.now() - before);
        }
        return moves.sort((a, b) => a - b)[10];
    };
    const cursor = await moved();
    panel.setPointerCapture = () => {}; // there is no pointer to capture
    panel.dispatchEvent(new PointerEvent("pointerdown", at(0)));
    const brush = await moved();
    const frames = [];
    for (let i = 0; i < 60; i++) {
        frames.push(await new Promise(requestAnimationFrame));
        panel.dispatchEvent(new PointerEvent("pointermove", at(i % 40)));
    }
    panel.dispatchEvent(new PointerEvent("pointermove", at(0)));
    return [opened, cursor, brush, (frames.at(-1) - frames[0]) / (frames.length - 1)];
}"""


class Memory:
    """The server's resident memory, its data server's with it, from now on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        # Its processes are those of its session's children; the data server is one.
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        self._processes = [Path("/proc") / pid for pid in (str(process.pid), *found)]
        for folder in self._processes:
            (folder / "clear_refs").write_text("5")  # the peak begins here
        self._before = self._read("VmRSS")

    def _read(self, field: str) -> int:
        lines = [
            line.split()
            for folder in self._processes
            for line in (folder / "status").read_text().splitlines()
        ]
        return sum(int(line[1]) for line in lines if line[0] == f"{field}:") * 1024

    def grown(self) -> int:
        """Bytes by which the peak since the beginning is above what there was then."""
        return self._read("VmHWM") - self._before


def write_logs(root: Path, size: Size) -> None:
    """Runs, each record of which is a little further from the start."""
    names = schema.STATISTICS[: size.statistics]
    rows = tuple(
        schema.Row(
            f"block_{i // 10}/layer_{i}", True, False, 1000, f"block/{i // 10}/block_{i // 10}"
        )
        for i in range(size.layers)
    )
    series = {name: schema.Series("drift", rows, name, "the initial weights") for name in names}
    random = np.random.default_rng(0)
    speed = np.geomspace(0.01, 1, size.layers)
    for run in range(size.runs):
        writer = EventWriter(root / f"run{run:03d}" / schema.DRIFT_DIR)
        for record in range(size.records):
            moved = speed * np.sqrt(record + 1) * random.uniform(0.9, 1.1, size.layers)
            writer.vectors([(series[n], schema.drift_tag(n), moved) for n in names], record)
            if record % 100 == 0:
                writer.flush()
        writer.close()
        if writer.lost:
            raise RuntimeError(f"{writer.lost} records were lost.")


def measure(root: Path, size: Size, load_fast: bool = True) -> dict[str, Any]:
    """Times of the first picture, of changes of the statistic and of the tree, in seconds."""
    start = time.perf_counter()
    with (
        tab_browser.tensorboard(root, load_fast=load_fast) as board,
        tab_browser.browser() as found,
    ):

        def loaded() -> bool:
            runs = json.loads(board.get("data/plugin/layerwise/runs")[2])["runs"]
            stamps = [stamp for run in runs for s in run["stamps"].values() for stamp in s]
            return len(stamps) == size.runs * size.statistics and all(
                stamp.startswith(f"{size.records - 1}/") for stamp in stamps
            )

        while not loaded():
            time.sleep(0.5)
        times: dict[str, Any] = {"loaded": time.perf_counter() - start}
        memory = Memory(board.process)
        firsts, fromopen = [], []
        chosen = json.dumps([f"run{i:03d}" for i in range(size.shown)])
        address = f"#layerwise&p.layerwise.stat=l2&p.layerwise.runs={urllib.parse.quote(chosen)}"
        asked: list[Any] = []
        for _ in range(REPEATS):
            page = found.new_page(viewport=WIDE)
            page.add_init_script(FIRST)
            asked.clear()
            page.on("response", lambda answer: asked.append(answer))  # no builtin can be wrapped
            start = time.perf_counter()
            page.goto(board.url + address)
            frame = page.frame_locator("iframe[src*=layerwise]")
            frame.locator("body[data-statistic]").wait_for(timeout=120_000)
            fromopen.append(time.perf_counter() - start)
            frame.locator("body[data-drawn]").wait_for(timeout=240_000)
            firsts.append(frame.locator("body").evaluate("() => window.firstPicture") / 1000)
            times |= _loaded(asked, board.url)
            if len(firsts) < REPEATS:
                page.close()
        times["first_picture"] = firsts
        times["first_picture_with_tensorboard"] = fromopen
        body = frame.locator("body")
        for name in ("change_new", "change_seen"):
            changes = [
                body.evaluate(CHANGE, statistic)
                for statistic in [*schema.STATISTICS[1 : size.statistics], "l2"][-size.statistics :]
            ]
            times[name], times[f"{name}_every_record"] = (
                [milliseconds / 1000 for milliseconds in found]
                for found in zip(*changes, strict=True)
            )
        for name, milliseconds in zip(
            ("open", "cursor", "brush", "frame"), body.evaluate(OPEN), strict=True
        ):
            times[name] = [milliseconds / 1000]
        times["memory"] = memory.grown() / 1e6
        return times


def _loaded(asked: list[Any], home: str) -> dict[str, Any]:
    """Bytes of the page itself, as they were sent, and requests to anywhere but the server."""
    own = [one for one in asked if "/plugin/layerwise/" in one.url]
    files = [one for one in own if one.url.endswith((".js", ".css", ".html"))]
    away = [one.url for one in asked if not one.url.startswith((home, "blob:", "data:"))]
    return {
        "page": sum(int(one.headers["content-length"]) for one in files) / 1000,
        "elsewhere": len(away),
    }


def figures(load_fast: bool, size: Size) -> list[Figure]:
    """The slowest times: those of what is not remembered yet."""
    with tempfile.TemporaryDirectory() as folder:
        write_logs(Path(folder), size)
        times = measure(Path(folder), size, load_fast)
    where = f"--load_fast={load_fast}, {size}"
    first = 2.0 if size.runs > 10 else 1.0
    found = [
        Figure(f"{what}, {where}", max(times[key]), "s", most)
        for what, key, most in (
            ("first picture", "first_picture", first),
            ("first picture, with TensorBoard's own start", "first_picture_with_tensorboard", None),
            ("change to a statistic not yet seen", "change_new", 0.5),
            ("the same until every record is drawn", "change_new_every_record", None),
            ("change to one seen before", "change_seen", 0.5),
            ("opening a block", "open", 0.05),
            ("moving the cursor", "cursor", 0.05),
            ("dragging over a picture, each move", "brush", 0.05),
            ("the same, from frame to frame", "frame", 0.0168),  # 60 a second
        )
    ]
    return [
        *found,
        Figure(f"server memory beyond TensorBoard's own, {where}", times["memory"], "MB", 300),
        Figure(f"what the page loads, compressed, {where}", times["page"], "kB", 600),
        Figure(f"requests elsewhere, {where}", times["elsewhere"], "requests", 0),
    ]

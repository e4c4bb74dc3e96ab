"""How long the tab takes, in a browser, over logs of the largest size it is meant for.

Needs Chromium, and the package installed.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift import Figure
from keras_layerwise.storage import schema
from keras_layerwise.storage.events import EventWriter
from tests.shared import tab_browser

LAYERS, RECORDS, RUNS = 500, 10_000, 3
STATISTICS = schema.STATISTICS[:8]
REPEATS = 3
WIDE = {"width": 1440, "height": 1000}

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
# Milliseconds from the beginning of the tab's frame until now.
SINCE_START = "() => performance.now()"


def write_logs(root: Path, layers: int = LAYERS, records: int = RECORDS, runs: int = RUNS) -> None:
    """Runs with every statistic, each record of which is a little further from the start."""
    rows = tuple(
        schema.Row(f"backbone/block_{i // 10}/layer_{i}", True, False, 1000) for i in range(layers)
    )
    series = {
        name: schema.Series("drift", rows, name, "the initial weights") for name in STATISTICS
    }
    random = np.random.default_rng(0)
    for run in range(runs):
        writer = EventWriter(root / f"run{run}" / schema.DRIFT_DIR)
        speed = np.geomspace(0.01, 1, layers)
        for record in range(records):
            moved = speed * np.sqrt(record + 1) * random.uniform(0.9, 1.1, layers)
            writer.vectors(
                [(series[name], schema.drift_tag(name), moved) for name in STATISTICS], record
            )
            if record % 100 == 0:
                writer.flush()
        writer.close()
        if writer.lost:
            raise RuntimeError(f"{writer.lost} records were lost.")


def measure(root: Path, load_fast: bool = True) -> dict[str, Any]:
    """Times of the first picture and of changes of the statistic, in seconds."""
    last = max(RECORDS - 1, 0)
    start = time.perf_counter()
    with (
        tab_browser.tensorboard(root, load_fast=load_fast) as board,
        tab_browser.browser() as found,
    ):

        def loaded() -> bool:
            runs = json.loads(board.get("data/plugin/layerwise/runs")[2])["runs"]
            stamps = [stamp for run in runs for s in run["stamps"].values() for stamp in s]
            return len(stamps) == RUNS * len(STATISTICS) and all(
                stamp.startswith(f"{last}/") for stamp in stamps
            )

        while not loaded():
            time.sleep(0.5)
        times: dict[str, Any] = {"loaded": time.perf_counter() - start}
        firsts, fromopen = [], []
        for _ in range(REPEATS):
            page = found.new_page(viewport=WIDE)
            start = time.perf_counter()
            page.goto(f"{board.url}#layerwise&p.layerwise.stat=l2")
            frame = page.frame_locator("iframe[src*=layerwise]")
            frame.locator("body[data-statistic]").wait_for(timeout=120_000)
            fromopen.append(time.perf_counter() - start)
            firsts.append(frame.locator("body").evaluate(SINCE_START) / 1000)
            frame.locator("body[data-drawn]").wait_for(timeout=120_000)
            if len(firsts) < REPEATS:
                page.close()
        times["first_picture"] = firsts
        times["first_picture_with_tensorboard"] = fromopen
        body = frame.locator("body")
        for name in ("change_new", "change_seen"):
            changes = [body.evaluate(CHANGE, statistic) for statistic in STATISTICS[1:]]
            times[name], times[f"{name}_every_record"] = (
                [milliseconds / 1000 for milliseconds in found]
                for found in zip(*changes, strict=True)
            )
        return times


def figures(load_fast: bool) -> list[Figure]:
    """The medians of `measure` over logs of the full size."""
    size = f"{LAYERS} layers × {RECORDS} records × {len(STATISTICS)} statistics, {RUNS} runs"
    with tempfile.TemporaryDirectory() as folder:
        write_logs(Path(folder))
        times = measure(Path(folder), load_fast)
    return [
        Figure(f"{what}, --load_fast={load_fast}, {size}", statistics.median(times[key]), "s", most)
        for what, key, most in (
            ("first picture", "first_picture", 2.0),
            ("first picture, with TensorBoard's own start", "first_picture_with_tensorboard", None),
            ("change to a statistic not yet seen", "change_new", 0.3),
            ("the same until every record is drawn", "change_new_every_record", None),
            ("change to one seen before", "change_seen", 0.3),
        )
    ]

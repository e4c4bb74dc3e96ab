"""The tab's page over a network with an outline, a sweep, and runs that are not whole."""

import csv
import http.server
import itertools
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from keras_layerwise.storage import schema
from keras_layerwise.tab import plugin
from tests.shared import tab_browser
from tests.shared.tab_browser import chosen, in_tensorboard, labels, opened, point_at, settle
from tests.shared.tab_logs import (
    growing,
    network,
    rows,
    write_broken_runs,
    write_drift,
    write_rates,
    write_record,
    write_scalars,
    write_sweep,
)

pytest.importorskip(
    "playwright", reason="the page does not depend on the backend; the tests on TensorFlow drive it"
)
pytestmark = pytest.mark.skipif(
    tab_browser.CHROMIUM is None, reason="looks at the page in Chromium, which is not installed"
)

STEPS = list(range(0, 1000, 20))
FROZEN = ["stem", "block/0/block_0", "block/1/block_1"]
UNFROZEN = 500
STATIC = Path(plugin.__file__).parent / "static"
FINE = 3000  # records, more than a picture has room for
TURNED = "layer\u202eevil\x07"
LONG = ["n" * 5000 + f"/{i}" for i in range(8)]
PARTS = ["stem/conv", *(f"part:block/{i}/block_{i}" for i in range(17)), "norm_BN", "classes"]


def write_network(run, seed=0, leaking=True, blocks=17):
    """Block 1 is unfrozen at step 500; an average of block 0 moves though it is frozen."""
    layers = network(blocks, frozen=FROZEN)
    names = [row.name for row in layers]
    values = growing(STEPS, len(layers), seed)
    held = np.array([row.part in FROZEN for row in layers])
    late = np.array([row.part == FROZEN[2] for row in layers])
    values[:, held] = 0
    values[np.array(STEPS) > UNFROZEN] += np.where(late, 0.1, 0)
    alarms = []
    if leaking:
        leak = "block_0/expand_BN (non-trainable)"
        values[5:, names.index(leak)] = 0.3
        alarms = [schema.alarm("frozen_moved", leak, 100, f"{leak} is frozen, but moved")]
    ratios = np.where(values > 0, 1e-3, 0)
    write_drift(
        run, ["l2", "update_ratio"], layers, STEPS, {"l2": values, "update_ratio": ratios}, alarms
    )
    own = [row for row in layers if row.trainable]
    weights = rows(*(f"{row.name}/kernel" for row in own))
    rates = np.where([row.part in FROZEN for row in own], 0, np.geomspace(1e-5, 1e-2, len(own)))
    changes = [
        schema.change("unfrozen", f"{row.name}/kernel", UNFROZEN, None, None)
        for row in own
        if row.part == FROZEN[2]
    ]
    write_rates(run, weights, STEPS, np.tile(rates, (len(STEPS), 1)), changes)
    write_record(run, {"seed": seed}, results={"final": {"loss": seed + 0.5}})
    write_scalars(
        run / "validation", "epoch_old_accuracy", range(5), [0.9, 0.8, 0.7, 0.6, 0.5 + seed / 10]
    )


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    root = tmp_path_factory.mktemp("network")
    write_network(root / "net" / "a")
    write_network(root / "net" / "b", seed=1, leaking=False)
    write_network(root / "small" / "a", blocks=3)
    write_network(root / "small" / "b", seed=1, leaking=False, blocks=3)
    write_sweep(root, 30)
    write_broken_runs(root / "broken")
    fine = np.arange(FINE)
    values = {"l2": np.stack([fine + 1, np.full(FINE, 1)], axis=1)}
    write_drift(root / "fine", ["l2"], rows("grows", "stays"), fine, values)
    values = growing(STEPS, len(LONG))
    write_drift(root / "long" / ("r" * 200), ["l2"], rows(*LONG), STEPS, {"l2": values})
    wild = values[:3, :2] * 1e9
    wild[1:] = np.nan
    alarm = schema.alarm("nonfinite", "a", STEPS[1], "a is not finite")
    write_drift(root / "wild/diverged", ["l2"], rows("a", "b"), STEPS[:3], {"l2": wild}, [alarm])
    write_drift(root / "wild/fine", ["l2"], rows("a", "b"), STEPS, {"l2": values[:, :2]})
    write_drift(root / "turned", ["l2"], rows(TURNED, "head"), STEPS, {"l2": values[:, :2]})
    with tab_browser.tensorboard(root) as found:

        def loaded():
            runs = json.loads(found.get("data/plugin/layerwise/runs")[2])["runs"]
            return len(runs) == 4 + 30 + 8 + 5 and all(
                run["stamps"] for run in runs if "broken" not in run["name"]
            )

        tab_browser.wait_for(loaded, "all runs")
        yield found


def runs(*names):
    return json.dumps(list(names))


SWEEP = [f"a-long-common-name-of-a-sweep/trial-{i:03d}" for i in range(30)]


def pixel(frame, row, column, columns, panel=0):
    """The colour in a cell of the picture, a little above its middle."""
    place = labels(frame).index(row), column, columns
    return (
        frame.locator("#heatmap .panel canvas")
        .nth(panel)
        .evaluate(
            """(canvas, [row, column, columns]) => {
            const rows = document.querySelectorAll("#heatmap .item").length;
            const strip = 10 * (canvas.width / parseFloat(canvas.style.width));
            const x = strip + ((canvas.width - strip) * (column + 0.5)) / columns;
            const y = (canvas.height * (row + 0.2)) / rows;
            return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        }""",
            place,
        )
    )


class TestTree:
    def test_a_large_network_is_shown_by_its_parts(self, look):
        frame = look(runs=runs("net/a"))
        titles = [name.replace("part:", "") for name in PARTS]
        shown = frame.locator("#heatmap .item").evaluate_all("all => all.map(e => e.dataset.key)")
        assert shown == PARTS
        assert labels(frame) == titles
        text = frame.locator("#heatmap .item .label").all_inner_texts()
        assert text[0] == "stem · stem/conv"
        assert text[4] == "block 3 · block_3"

    def test_a_part_opens_to_its_layers_and_stays_open(self, page, board):
        frame = opened(page, board, runs=runs("net/a"))
        frame.locator("#heatmap .item", has_text="block 3 ·").click()
        inside = frame.locator("#heatmap .item.level2 .label").all_inner_texts()
        assert inside == [
            "expand",
            "expand_BN",
            "depthwise",
            "depthwise_BN",
            "project",
            "project_BN",
        ]
        assert json.loads(chosen(page)["open"]) == ["part:block/3/block_3"]
        page.reload()
        frame.locator(tab_browser.DRAWN).wait_for()
        assert frame.locator("#heatmap .item.level2").count() == 6

    def test_keys_move_through_the_tree_and_open_it(self, page, board):
        frame = opened(page, board, runs=runs("net/a"))
        frame.locator("#heatmap .item").first.focus()
        for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        focused = frame.locator("#heatmap .item:focus")
        assert focused.get_attribute("title") == "block_0/expand"
        assert frame.locator("#heatmap [aria-expanded=true]").count() == 1
        settle(frame, lambda: page.keyboard.press("Enter"))
        assert json.loads(chosen(page)["layers"]) == ["block_0/expand"]
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert frame.locator("#heatmap [aria-expanded=true]").count() == 0

    def test_a_closed_part_shows_what_stands_out_most_in_it(self, page, board):
        frame = opened(page, board, runs=runs("net/a"), stat="l2")
        point_at(page, frame, "block/16/block_16", 49, len(STEPS))
        frame.locator("#tooltip .value").wait_for()
        closed = float(frame.locator("#tooltip .value").inner_text())
        frame.locator("#heatmap .item", has_text="block 16 ·").click()
        found = []
        for layer in frame.locator("#heatmap .item.level2").evaluate_all(
            "a => a.map(e => e.title)"
        ):
            point_at(page, frame, layer, 49, len(STEPS))
            frame.locator("#tooltip strong", has_text=layer).first.wait_for()
            found.append(float(frame.locator("#tooltip .value").inner_text()))
        assert max(found) == closed

    def test_zero_has_a_mark_on_every_scale_and_averages_have_one_of_their_own(self, page, board):
        frame = opened(page, board, runs=runs("net/a"), scale="linear")
        for scale in ("linear", "log"):
            if scale == "log":
                settle(frame, lambda: frame.get_by_text("Logarithmic", exact=True).click())
            zero = pixel(frame, "stem/conv", 20, len(STEPS))
            assert zero[:3] == [0xDE] * 3
            assert pixel(frame, "classes", 20, len(STEPS))[:3] != zero[:3]
        assert frame.locator("#legends .legend").count() == 2
        settle(frame, lambda: frame.locator("#averages").uncheck())
        assert frame.locator("#legends .legend").count() == 1


class TestFrozen:
    def test_one_sentence_says_whether_it_held(self, look):
        frame = look(runs=runs("net/a"))
        frame.locator("#held:not(:empty)").wait_for()
        said = frame.locator("#held").inner_text()
        assert said == (
            "12 of 13 frozen layers held; block_0/expand_BN moved though frozen; "
            "6 unfrozen at step 500."
        )
        frame = look(runs=runs("net/a", "net/b"))
        frame.locator("#held", has_text="net/b: 13 of 13 frozen layers held").wait_for()

    def test_alarms_are_told_by_cause_with_a_remedy(self, look):
        frame = look(runs=runs("net/a"))
        assert "Moving averages moved though" in frame.locator("#alarms summary").inner_text()
        assert "training=False" in frame.locator("#alarms .hint").first.inner_text()


class TestRates:
    def test_rates_are_a_heat_map_on_the_same_tree(self, page, board):
        frame = opened(page, board, runs=runs("net/a"), stat="rates", scale="log")
        assert labels(frame) == [name.replace("part:", "") for name in PARTS]
        point_at(page, frame, "classes", 10, len(STEPS))
        assert float(frame.locator("#tooltip .value").inner_text()) == np.float32(1e-2)

    def test_rates_times_steps_stand_against_distance(self, look):
        frame = look(runs=runs("net/a"))
        x = frame.locator("#scatter").evaluate("c => Math.max(...c.data[0].x)")
        assert x == pytest.approx(1e-2 * STEPS[-1], rel=1e-5)
        types = frame.locator("#scatter").evaluate(
            "c => [c.layout.xaxis.type, c.layout.yaxis.type]"
        )
        assert types == ["log", "log"]

    def test_update_ratios_stand_on_bands(self, look):
        frame = look(runs=runs("net/a"))
        text = frame.locator("#ratios .annotation").all_text_contents()
        assert text == ["dead", "healthy, about 1e-3", "too large"]


class TestForgetting:
    def test_a_metric_stands_over_total_drift(self, look):
        frame = look(runs=runs("net/a", "net/b"))
        assert frame.locator("#metric").input_value() == "validation/epoch_old_accuracy"
        ends = frame.locator("#forget").evaluate(
            "c => c.data.filter(t => t.marker?.size === 10).map(t => t.y[0])"
        )
        assert sorted(ends) == pytest.approx([0.5, 0.6])


class TestSweep:
    def test_a_run_is_a_row_with_only_what_differs(self, look):
        frame = look(runs=json.dumps(SWEEP))
        heads = frame.locator("#sweep thead th").all_inner_texts()
        assert heads == [
            *("Compare", "Run", "Status", "rate", "way", "final accuracy", "final loss"),
            *("Final drift", "Rules"),
        ]
        # The optimizer's rate is the user's in every run: said once.
        rate = frame.locator("#sweep .sort", has_text="rate").first
        assert rate.get_attribute("title") == "user/rate = training/learning_rate"
        assert frame.locator("#sweep tbody tr").count() == 30
        names = frame.locator("#sweep tbody th").all_inner_texts()
        assert len(set(names)) == 30

    def test_results_sort_both_ways_and_filters_take_ranges_and_expressions(self, page, board):
        frame = opened(page, board, runs=json.dumps(SWEEP))
        names = frame.locator("#sweep tbody th")
        frame.locator("#sweep .sort", has_text="final loss").click()
        assert names.first.inner_text().endswith("010")
        best = frame.locator("#sweep tbody tr").first.locator("td.best")
        assert best.all_inner_texts() == ["0.04"]  # of the losses
        frame.locator("#sweep .sort", has_text="final loss").click()
        assert names.first.inner_text().endswith("029")
        assert frame.locator("#sweep th[aria-sort=descending]").count() == 1
        patterns = [("way", "^ev", 15), ("final accuracy", ">0.5", 15), ("rate", "1e-4..1e-3", 10)]
        for column, pattern, left in patterns:
            field = frame.get_by_label(f"Filter {column}", exact=True)
            for text, count in ((pattern, left), ("", 30)):
                field.fill(text)
                field.press("Enter")
                assert frame.locator("#sweep tbody tr").count() == count

    def test_two_runs_are_compared_layer_by_layer(self, page, board):
        frame = opened(page, board, runs=json.dumps(SWEEP[:10]), pair=json.dumps(SWEEP[:2]))
        assert frame.locator("#difference .panel").count() == 1
        ranked = frame.locator("#ranked li").all_inner_texts()
        assert len(ranked) == 10
        times = [float(text.split(" moved ")[1].split()[0]) for text in ranked]
        assert times == sorted(times, reverse=True)
        section = frame.locator("#hyperparameters details[data-key=differs]")
        keys = section.locator("tbody th").all_inner_texts()
        assert keys == ["user/rate", "user/way", "training/learning_rate"]

    def test_the_page_stays_short_and_names_stay_different(self, look):
        frame = look(runs=json.dumps(SWEEP))
        height = frame.locator("body").evaluate("() => document.documentElement.scrollHeight")
        assert height < 4000
        shown = frame.locator("#heatmap .head").all_inner_texts()
        assert len(set(shown)) == 30
        wide = frame.locator("#heatmap .heat").evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert wide[0] <= wide[1]  # all runs are seen side by side
        # What many records of a narrow picture are drawn as is what stands out among them.
        spike = frame.evaluate(
            """async () => {
                const { narrowed } = await import("/data/plugin/layerwise/values.js");
                const row = Float32Array.from({ length: 50 }, (_, i) => (i === 21 ? -9 : NaN));
                return ["rising", "signed"].map((reads) => [...narrowed(row, 5, reads)].join());
            }"""
        )
        assert spike == ["NaN,NaN,-9,NaN,NaN"] * 2
        assert len(set(frame.locator("#runs .name").all_inner_texts())) == 47

    def test_runs_of_a_folder_are_told_apart_beside_others(self, look):
        frame = look(runs=json.dumps(SWEEP))
        rows = itertools.product((0.5, 0.7, 0.85), ("0.0003", "0.001", "0.01"), (0, 6))
        names = [f"sweep/decay={d},lr={r},frozen={n}" for d, r, n in rows]
        shown = frame.evaluate(
            """async (names) => {
                const { distinct } = await import("/data/plugin/layerwise/text.js");
                return distinct(names, 20);
            }""",
            ["bert", "notebook/0", *names],
        )
        assert shown[:2] == ["bert", "notebook/0"]
        assert len(set(shown)) == len(shown)
        assert not any(name.endswith(")") for name in shown)  # none is only numbered

    def test_runs_are_filtered_by_expression(self, page, board):
        frame = opened(page, board, runs=runs("net/a"))
        settle(frame, lambda: frame.locator("#run-filter").fill("trial-00[0-4]$"))
        assert frame.locator("#runs .run").count() == 5


class TestFiles:
    def test_every_chart_can_be_saved_as_a_picture_and_as_data(self, page, board, tmp_path):
        pair = runs("net/a", "net/b")
        layer = "block_3/expand"
        frame = opened(page, board, runs=pair, pair=pair, layers=f'["{layer}"]', stat="l2")

        def saved(chart, kind):
            button = frame.locator(f"#{chart}-{kind}")
            return tab_browser.saved(page, button, tmp_path / f"{chart}.{kind}")

        heads = {
            "lines": ["run", "step", layer],
            "scatter": ["run", "layer", "rate × steps", "L2 distance"],
            "difference": ["step", "stem/conv"],
            "forget": ["run", "trained steps", "total drift", "validation/epoch_old_accuracy"],
            "ratios": ["run", "step", "stem/conv"],
        }
        for chart, expected in heads.items():
            assert b"<svg" in saved(chart, "svg")[:300]
            lines = list(csv.reader(saved(chart, "csv").decode().splitlines()))
            assert lines[0][: len(expected)] == expected
            assert {len(line) for line in lines} == {len(lines[0])}
            if chart == "lines":
                assert len(lines) == 1 + 2 * len(STEPS)
                assert len(lines[0]) == 3
        assert frame.locator("#curves-csv").is_hidden()  # these runs have no rules
        # Chromium drops, without a word, what a page saves beyond ten files within a second.
        page.wait_for_timeout(1100)
        assert saved("forget", "png").startswith(b"\x89PNG")
        assert saved("sweep", "csv").decode().startswith("run,status,user/seed,")


class TestOneBadRun:
    def test_it_costs_itself_a_row_and_a_mark(self, page, board):
        bad = ["no-json", "null-in-timeline", "nested", "too-deep", "bad-alarm", "bad-change"]
        frame = opened(page, board, runs=runs("net/a", *(f"broken/{name}" for name in bad)))
        assert frame.locator("#heatmap .panel").count() == 1
        assert frame.locator("#sweep tbody tr").count() == 5
        broken = frame.locator("#sweep tbody tr.broken")
        assert broken.count() == 4
        assert "'timeline' can not be [None]" in broken.nth(2).inner_text()
        assert frame.locator("#runs .broken").count() == 1


class TestDivergence:
    def test_a_run_that_diverged_leaves_the_others_their_colours(self, page, board):
        ticks = "#legends .bar-ticks span"
        frame = opened(page, board, runs=runs("wild/fine"))
        alone = frame.locator(ticks).all_inner_texts()
        settle(frame, lambda: frame.locator("#runs label[title='wild/diverged']").click())
        assert frame.locator(ticks).all_inner_texts() == alone
        assert "not finite" in frame.locator("#drift-note").inner_text()


class TestNames:
    def test_names_of_thousands_of_characters_are_drawn_and_stay_apart(self, page, board):
        frame = opened(page, board, runs=runs(f"long/{'r' * 200}"), layers=json.dumps(LONG[:2]))
        shown = frame.locator("#heatmap .item .label").all_inner_texts()
        assert len(set(shown)) == 8
        assert max(map(len, shown)) < 60
        assert labels(frame) == LONG

    def test_text_that_turns_direction_is_shown_as_such(self, page, board):
        frame = opened(page, board, runs=runs("turned"))
        shown = frame.locator("#heatmap .item .label").first.inner_text()
        assert shown == "layer⟨U+202E⟩evil⟨U+0007⟩"


class TestCursor:
    def test_one_step_is_pointed_at_in_all_pictures(self, page, board):
        frame = opened(page, board, runs=runs("net/a", "net/b"), layers=runs("classes"))
        point_at(page, frame, "classes", 25, len(STEPS))
        frame.locator("#lines .cursor:not([hidden])").wait_for()
        assert frame.locator("#heatmap .cursor:not([hidden])").count() == 2
        point_at(page, frame, "classes", len(STEPS) - 1, len(STEPS))  # the metrics are of the end
        frame.locator("#forget .at:not([hidden])").nth(1).wait_for()

    def test_dragging_zooms_to_steps_that_the_address_keeps(self, page, board):
        frame = opened(page, board, runs=runs("net/a", "net/b"))
        point_at(page, frame, "classes", 10, len(STEPS))
        page.mouse.down()
        point_at(page, frame, "classes", 19, len(STEPS))
        settle(frame, page.mouse.up)
        assert chosen(page)["zoom"] == "200-380"
        point_at(page, frame, "classes", 0, 10, panel=1)
        assert frame.locator("#tooltip .step").inner_text() == "step 200"
        settle(frame, lambda: frame.locator("#drift-reset").click())
        assert "zoom" not in chosen(page)

    def test_a_zoom_shows_each_record(self, page, board):
        frame = opened(page, board, runs=runs("fine"), zoom="1000-1019")
        for column in (0, 13, 19):
            point_at(page, frame, "grows", column, 20)
            step = frame.locator("#tooltip .step", has_text=f"step 1,{column:03d}")
            step.wait_for()
            assert step.inner_text() == f"step 1,{column:03d}"
            assert frame.locator("#tooltip .value").inner_text() == str(1001 + column)
        assert frame.locator("#drift-note").inner_text() == ""


class TestBrushing:
    def drag(self, page, frame, chart, point):
        """Drags over one point of a chart, given as its trace and its place in it."""
        found = frame.locator(chart)
        found.scroll_into_view_if_needed()
        x, y = found.evaluate(
            """(chart, [trace, i]) => {
                const { xaxis, yaxis } = chart._fullLayout, { x, y } = chart.data[trace];
                const box = chart.getBoundingClientRect();
                return [box.left + xaxis._offset + xaxis.d2p(x[i]),
                        box.top + yaxis._offset + yaxis.d2p(y[i])];
            }""",
            point,
        )
        page.mouse.move(x - 9, y - 9)
        page.mouse.down()
        page.mouse.move(x, y)
        page.mouse.move(x + 9, y + 9)
        page.mouse.up()

    def test_runs_brushed_in_a_chart_stay_in_the_table_and_others_fade(self, page, board):
        frame = opened(page, board, runs=runs("net/a", "net/b"))
        ends = frame.locator("#forget").evaluate(
            "c => c.data.flatMap((t, i) => t.marker?.size === 10 ? [[i, t.customdata[0]]] : [])"
        )
        (trace,) = (i for i, name in ends if name == "net/a")
        self.drag(page, frame, "#forget", [trace, 0])
        names = frame.locator("#sweep tbody th")
        tab_browser.wait_for(lambda: names.all_inner_texts() == ["net/a"], "the table")
        assert json.loads(chosen(page)["brush"]) == ["net/a"]
        faded = "c => c.data.filter(t => t.opacity < 0.2).map(t => t.customdata[0])"
        tab_browser.wait_for(
            lambda: set(frame.locator("#forget").evaluate(faded)) == {"net/b"}, "the chart"
        )
        frame.locator("#all-runs").click()
        assert names.all_inner_texts() == ["net/a", "net/b"]

    def test_layers_brushed_in_a_chart_are_shown_as_lines(self, page, board):
        frame = opened(page, board, runs=runs("net/a"))
        last = frame.locator("#scatter").evaluate("c => c.data[0].x.length - 1")
        settle(frame, lambda: self.drag(page, frame, "#scatter", [0, last]))
        assert "classes" in json.loads(chosen(page)["layers"])
        assert frame.locator("#lines .annotation").count() >= 1


class TestRunFilter:
    def test_the_filter_of_tensorboards_dashboards_is_followed(self, page, board):
        address = f"{board.url}?runFilter=TRIAL-00%5B0-4%5D%24#layerwise"
        page.goto(address)
        frame = tab_browser.tab(page)
        assert frame.locator("#runs .run").count() == 5
        page.evaluate("history.replaceState(null, '', '?runFilter=net%2F' + location.hash)")
        settle(frame, lambda: page.locator(".reload-button").click())
        assert frame.locator("#run-filter").input_value() == "net/"
        assert frame.locator("#runs .run").count() == 2


class TestNotebook:
    def test_the_tab_works_in_the_frame_of_a_notebook(self, page, board):
        """As `%tensorboard` shows it: in a frame of a page of another port."""
        shown = (
            '<link rel="icon" href="data:,"><iframe id="tensorboard-frame" width="100%" '
            f'height="800" frameborder="0" src="{board.url}#layerwise"></iframe>'
        )

        class Notebook(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(shown.encode())

            def log_message(self, *args):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notebook) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            server.shutdown()
        outer = page.frame_locator("#tensorboard-frame")
        frame = outer.frame_locator("iframe[src*='plugin_entry.html?name=layerwise']")
        frame.locator(tab_browser.DRAWN).wait_for()
        assert frame.locator("#heatmap .panel[data-painted]").count()
        settle(frame, lambda: frame.get_by_text("Linear", exact=True).click())
        address = next(inner.url for inner in page.frames if inner.url.startswith(board.url))
        assert "p.layerwise.scale=linear" in address


class TestAccess:
    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_axe_finds_no_violation(self, page, board, dark):
        from axe_playwright_python.sync_playwright import Axe

        # Every part, and each as short as it can be: axe looks at every cell of the tables.
        pair = runs("small/a", "small/b")
        choices = {"runs": pair, "pair": pair, "layers": runs("classes")}
        if dark:
            frame = in_tensorboard(page, board, "?darkMode=true", **choices)
        else:
            frame = opened(page, board, **choices)
        assert (frame.locator(":root.dark").count() == 1) == dark
        assert frame.locator("#difference .panel").count() == 1
        frame.locator("#table summary").click()
        inner = page.frames[-1]
        # The themes differ in their colours alone.
        options = {"runOnly": ["color-contrast"]} if dark else {}
        options["resultTypes"] = ["violations"]  # selectors of all else would take longest
        found = Axe().run(inner, options=options).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []


class TestScreenshots:
    """The docs': ``KERAS_LAYERWISE_SCREENSHOTS=docs pytest tests/tab -k Screenshots``."""

    def test_the_page_as_the_docs_show_it(self, page, board, tmp_path):
        folder = Path(os.environ.get("KERAS_LAYERWISE_SCREENSHOTS", tmp_path))
        page.set_viewport_size({"width": 1360, "height": 1000})
        shown = {"open": json.dumps(["part:block/1/block_1"]), "scale": "log", "runfilter": "^net/"}
        frame = in_tensorboard(page, board, runs=runs("net/a", "net/b"), **shown)
        frame.locator("#heatmap .panel[data-painted]").nth(1).wait_for()
        page.screenshot(path=folder / "tab.png")
        frame = opened(page, board, runs=json.dumps(SWEEP[::3]), sort="result:final loss")
        frame.locator("#sweep-card").screenshot(path=folder / "tab-sweep.png")
        assert all(
            (folder / f"{name}.png").stat().st_size > 30_000 for name in ("tab", "tab-sweep")
        )


class TestServer:
    def test_what_was_drawn_stays_when_the_server_goes(self, page, board):
        frame = in_tensorboard(page, board, runs=runs("net/a"))
        frame.locator("#heatmap .panel").wait_for()
        gone = {"status": 200, "body": "gone", "headers": {"content-type": "text/plain"}}
        page.route("**/layerwise/runs", lambda route: route.fulfill(**gone))
        page.locator(".reload-button").click()
        frame.locator("#down:not([hidden])").wait_for()
        assert "What is shown was read at" in frame.locator("#down").inner_text()
        assert frame.locator("#heatmap .panel").is_visible()
        page.unroute("**/layerwise/runs")
        page.locator(".reload-button").click()
        frame.locator("#down[hidden]").wait_for(state="attached")

    def test_what_the_page_loads_is_small(self, page, board):
        sizes = {}

        def note(answer):
            if "/plugin/layerwise/" in answer.url and answer.url.endswith((".js", ".css", ".html")):
                sizes[answer.url] = int(answer.headers["content-length"])

        page.on("response", note)
        opened(page, board, runs=runs("net/a"))
        page.remove_listener("response", note)
        served = {url.partition("/layerwise/")[2] for url in sizes}
        assert {name for name in served if "/" not in name} == {
            path.name for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html")
        }
        assert sum(sizes.values()) <= 600_000

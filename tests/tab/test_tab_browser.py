"""The tab in a real browser, on a started TensorBoard, over logs from a real ``fit``."""

import contextlib
import csv
import itertools
import json
import re
import threading
import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.storage import schema
from tests.shared import tab_browser
from tests.shared.tab_browser import chosen, in_tensorboard, labels, opened, point_at, saved, settle
from tests.shared.tab_logs import HOSTILE, growing, rows, write_drift, write_rates, write_record

pytest.importorskip(
    "playwright", reason="the page does not depend on the backend; the tests on TensorFlow drive it"
)
pytestmark = pytest.mark.skipif(
    tab_browser.CHROMIUM is None, reason="looks at the page in Chromium, which is not installed"
)

FULL, DECAY = "full-rate", "layer-decay"
ONE, BOTH = json.dumps([FULL]), json.dumps([FULL, DECAY])
STEPS = list(range(0, 1001, 20))
RATED = '["head", "block_3", "stem"]'
NAMES = ["stem", "block_1", HOSTILE, "head"]


def fitted(log_dir, rules, *callbacks, rate=0.01):
    """A short training with all callbacks; returns its WeightDrift."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((6,)), keras.layers.Dense(16, "relu", name="stem")]
    layers += [keras.layers.BatchNormalization(name="stem_norm")]
    for i in range(1, 4):
        layers.append(keras.layers.Dense(16, "relu", name=f"block_{i}", kernel_regularizer="l2"))
    layers += [keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential(layers)
    frozen = {"stem": kl.Rule(frozen=True), "stem_norm": kl.Rule(frozen=True)}
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.Adam(rate), frozen | rules, model=model)
    model.compile(optimizer, "mse")
    drift = kl.WeightDrift(log_dir, update_freq=2)
    callbacks = [
        drift,
        kl.LearningRateMonitor(log_dir),
        kl.FreezeHyperparameters(log_dir, {"task": "sum", "multipliers": len(rules)}),
        *callbacks,
        keras.callbacks.LearningRateScheduler(lambda epoch: rate * 0.9**epoch),
    ]
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("f4")
    model.fit(x, x.sum(1, keepdims=True), 16, 20, verbose=0, callbacks=callbacks)
    return drift


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two runs from ``fit``, and one that was written to show every kind of mark."""
    root = tmp_path_factory.mktemp("logs")
    decay = {f"block_{i}": 0.5 ** (4 - i) for i in range(1, 4)}
    unfreeze = kl.GradualUnfreeze({8: "stem"})
    histories = {
        FULL: fitted(root / FULL, {"block_3": 0.5}, unfreeze).history,
        DECAY: fitted(root / DECAY, decay).history,
    }
    values = growing(STEPS, len(NAMES))
    values[:, 0] = np.where(np.array(STEPS) < 500, 0, values[:, 0])
    layers = rows(*NAMES, frozen=["stem", "head"], still=["block_1"])
    alarms = [
        schema.alarm("frozen_moved", "stem", 300, f"{HOSTILE} stem is frozen, but moved"),
        schema.alarm("trainable_still", HOSTILE, 400, "has not moved"),
        schema.alarm("nonfinite", "head", 600, "3 elements are not finite"),
    ]
    run = root / HOSTILE.replace("/", "_")
    statistics = {"relative_l2": values, "cosine": 1 - values, "mean_shift": -values}
    write_drift(run, list(statistics), layers, STEPS, statistics, alarms)
    changes = [schema.change("unfrozen", "stem", 500, None, None)]
    write_rates(run, layers, STEPS, np.ones((len(STEPS), 4)) * [0, 1, 2, 3], changes)
    write_record(run, {"title": HOSTILE})
    return root, histories, run.name


@contextlib.contextmanager
def started(logs, load_fast):
    with tab_browser.tensorboard(logs[0], load_fast=load_fast) as found:

        def loaded():
            runs = json.loads(found.get("data/plugin/layerwise/runs")[2])["runs"]
            return len(runs) == 3 and all("record" in run["stamps"] for run in runs)

        tab_browser.wait_for(loaded, "three runs")
        yield found


@pytest.fixture(scope="module")
def board(logs):
    with started(logs, load_fast=True) as found:
        yield found


def hovered_is_recorded(page, board, history):
    tab = opened(page, board, runs=ONE, stat="l2")
    layers, steps = history["layers"], history["step"]
    row, column = layers.index("head"), 3
    point_at(page, tab, "head", column, len(steps))
    tooltip = tab.locator("#tooltip")
    tooltip.wait_for()
    assert tooltip.locator("strong").inner_text() == "head"
    assert tooltip.locator(".step").inner_text() == f"step {steps[column]}"
    shown = np.float32(tooltip.locator(".value").inner_text())
    assert shown == np.float32(history["l2"][column, row])
    assert shown != 0


class TestPictures:
    def test_the_number_in_the_hover_is_the_number_in_the_history(self, page, board, logs):
        hovered_is_recorded(page, board, logs[1][FULL])

    # What the loaders give is compared in test_tab.py; the page asks both the same.
    def test_the_slow_loader_shows_the_same(self, page, logs):
        with started(logs, load_fast=False) as slow:
            hovered_is_recorded(page, slow, logs[1][FULL])

    def test_each_run_says_what_is_frozen_in_it(self, page, board, logs):
        def label():
            return tab.locator('#heatmap .item[data-key="head"]').inner_text().split()

        tab = opened(page, board, runs=json.dumps([logs[2]]))
        assert label() == ["⚠", "❄", "head"]
        settle(tab, lambda: tab.locator("#runs label", has_text=FULL).click())
        # The second run knows the parts of its network: a part named as its layer is said once.
        assert label() == ["⚠", "(❄)", "head"]
        for panel, frozen in enumerate([True, False]):
            point_at(page, tab, "head", 3, 40, panel)
            tab.locator("#tooltip strong", has_text="head").wait_for()
            assert ("frozen layer" in tab.locator("#tooltip .hint").inner_text()) == frozen
            page.mouse.move(0, 0)

    def test_alarms_are_seen_at_a_glance_and_lead_to_their_layer(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]))
        assert tab.locator("#alarms-title").inner_text() == "What is wrong? 3 alarms"
        causes = tab.locator("#alarms details")
        assert causes.count() == 3
        assert "1 layer in 1 run, from step 300" in causes.first.inner_text()
        assert "assign()" in causes.first.locator("p").inner_text()
        settle(tab, lambda: tab.locator("#alarms button").first.click())
        assert json.loads(chosen(page)["layers"]) == ["stem"]

    def test_the_list_of_runs_says_how_each_is(self, look, logs):
        tab = look(runs=ONE)
        assert tab.locator("#run-count").inner_text() == "1 of 3 runs chosen"
        # Their only scalars are rates, which tell nothing of what was forgotten.
        assert tab.locator("#forget-card").is_hidden()
        (full,) = tab.locator("#runs label", has_text=FULL).all()
        full.locator(".badge").wait_for()
        assert full.inner_text().split() == [FULL, "✔", "finished"]
        (long,) = tab.locator(f"#runs label[title={json.dumps(logs[2])}]").all()
        assert "3 alarms" in long.inner_text()
        name = long.locator(".name")
        assert name.get_attribute("title") == logs[2]
        lines = "e => e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight)"
        assert name.evaluate(lines) < 1.5
        assert len(name.inner_text()) <= 30

    def test_every_colour_scale_has_a_legend(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]))
        for statistic in ("cosine", "mean_shift", "relative_l2"):
            choose = tab.locator("#statistic").select_option
            settle(tab, lambda choose=choose, to=statistic: choose(to))
            seen = set()
            for scale, relative in itertools.product(["log", "linear"], ["layer", "all"]):
                for name, value in {"scale": scale, "relative": relative}.items():
                    radio = tab.locator(f"input[name={name}][value={value}]")
                    if not radio.is_checked():
                        settle(tab, lambda chosen=radio: chosen.locator("xpath=..").click())
                legend = tab.locator("#legends .legend").first
                ticks = legend.locator(".bar-ticks span").all_inner_texts()
                title = legend.locator(".legend-title").inner_text()
                assert len(ticks) >= 2
                assert ("own largest" in title) == (relative == "layer")
                seen.add((*ticks, title))
            assert len(seen) == 4

    def test_several_runs_share_one_scale(self, look):
        tab = look(runs=BOTH)
        assert tab.locator("#heatmap .panel[data-painted]").count() == 2
        assert tab.locator("#legends .legend-title").all_inner_texts() == [
            "Weights: Relative L2 distance",
            "Moving averages: Relative L2 distance",
        ]

    def test_runs_are_toggled_as_they_are_listed(self, page, board, logs):
        tab = opened(page, board, runs=ONE)
        settle(tab, lambda: tab.locator("#run-filter").fill("DECAY"))
        for expected in ([FULL, DECAY], [FULL]):
            settle(tab, lambda: tab.locator("#toggle-runs").click())
            assert json.loads(chosen(page)["runs"]) == expected
        settle(tab, lambda: tab.locator("#run-filter").fill(""))
        for expected in ([], sorted([FULL, DECAY, logs[2]])):
            settle(tab, lambda: tab.locator("#toggle-runs").click())
            assert sorted(json.loads(chosen(page)["runs"])) == expected

    def test_the_filter_narrows_the_rows(self, page, board):
        tab = opened(page, board, runs=ONE)
        settle(tab, lambda: tab.locator("#layer-filter").fill("HEA"))
        assert tab.locator("#layer-count").inner_text().startswith("1 of ")
        assert labels(tab) == ["head"]
        settle(tab, lambda: tab.locator("#layer-filter").fill("^(stem|block_[12])$"))
        assert labels(tab) == ["block/0/stem", "stem", "block_1", "block_2"]
        settle(
            tab, lambda: tab.locator("#layer-filter").fill("block_(")
        )  # no expression: plain text
        assert tab.locator("#layer-filter").get_attribute("aria-invalid") == "true"
        assert labels(tab) == []


class TestLines:
    def test_a_click_shows_the_layer_its_rate_and_its_changes(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]))
        point_at(page, tab, "stem", 10, len(STEPS))
        tab.locator("#tooltip").wait_for()
        page.mouse.down()
        settle(tab, page.mouse.up)
        lines = tab.locator("#lines .scatterlayer .trace.scatter")
        assert tab.locator("#chips button").all_inner_texts() == ["stem\n×"]
        assert lines.count() == 3  # values, learning rate, marks
        assert tab.locator("#lines .y2title").text_content() == "Learning rate"
        symbols = "c => c.data.at(-1).marker.symbol"
        assert tab.locator("#lines").evaluate(symbols) == ["x", "triangle-up"]
        settle(tab, lambda: tab.locator("#chips button").click())
        assert tab.locator("#lines").is_hidden()

    def test_each_layer_is_a_picture_of_its_own(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]), layers='["stem", "head"]')
        assert tab.locator("#lines .annotation").all_text_contents() == ["stem", "head"]
        assert tab.locator("#lines-legend .named").count() == 1

    def test_the_rates_axis_is_logarithmic_with_the_colours(self, look):
        tab = look(runs=ONE, layers=RATED, scale="log")
        types = "c => [c.layout.yaxis.type, c.layout.yaxis2.type]"
        assert tab.locator("#lines").evaluate(types) == ["log", "log"]

    def test_lines_can_be_over_time_and_smoothed(self, page, board):
        tab = opened(page, board, runs=ONE, layers='["head"]', stat="l2")
        raw = tab.locator("#lines").evaluate("c => c.data[0].y")
        settle(tab, lambda: tab.get_by_text("Relative", exact=True).click())
        hours = tab.locator("#lines").evaluate("c => c.data[0].x")
        assert hours[0] == 0
        assert hours == sorted(hours)
        slider = tab.locator("#smooth")
        settle(tab, lambda: slider.fill("0.5"))
        smooth = tab.locator("#lines").evaluate("c => c.data[0].y")
        assert smooth[0] == pytest.approx(raw[0])
        assert smooth[1] == pytest.approx((raw[0] * 0.5 + raw[1]) / 1.5)

    def test_a_layer_can_be_added_by_its_name(self, page, board):
        tab = opened(page, board, runs=BOTH)
        tab.locator("#add-layer").fill("head")
        settle(tab, lambda: tab.locator("#add-layer").press("Enter"))
        assert tab.locator("#lines-legend .named").all_inner_texts() == [FULL, DECAY]

    def test_the_rates_are_those_of_the_optimizer(self, look):
        tab = look(runs=ONE, layers=RATED, scale="log")
        head, half, stem = tab.locator("#lines").evaluate(
            "chart => chart.data.filter(t => t.line?.shape === 'vh').map(t => [t.y[0], t.y.at(-1)])"
        )
        assert head == [np.float32(0.01), pytest.approx(0.01 * 0.9**19)]
        assert half == [np.float32(0.005), pytest.approx(0.005 * 0.9**19)]
        assert stem == [0, pytest.approx(0.01 * 0.9**19)]


class TestHyperparameters:
    def test_runs_are_side_by_side_with_what_differs_on_top(self, look):
        tab = look(runs=BOTH)
        sections = tab.locator("#hyperparameters details")
        assert [s.get_attribute("data-key") for s in sections.all()][:3] == [
            "run",
            "differs",
            "derived",
        ]
        differing = tab.locator("#hyperparameters details[data-key=differs] tbody tr")
        table = {
            row.locator("th").inner_text(): row.locator("td").all_inner_texts()
            for row in differing.all()
        }
        assert table["user/multipliers"] == ["1", "3"]
        run = tab.locator("#hyperparameters details[data-key=run]")
        assert run.locator(".badge.finished").count() == 2
        assert run.locator(".badge.same", has_text="same start as").count() == 2
        assert run.locator(".badge.same", has_text="same result as").count() == 0

    def test_results_are_as_long_as_they_mean_something(self, look):
        tab = look(runs=ONE)
        run = tab.locator("#hyperparameters details[data-key=run]")
        loss = run.get_by_role("row", name="final loss")
        text = loss.locator("td").inner_text()
        assert float(text) > 0
        assert len(text.lstrip("0.").replace(".", "")) <= 6

    def test_one_run_is_grouped_as_in_the_inventory(self, page, board):
        tab = opened(page, board, runs=ONE)
        keys = [s.get_attribute("data-key") for s in tab.locator("#hyperparameters details").all()]
        assert keys == ["run", "user", "training", "regularization", "architecture", "runtime"]
        architecture = tab.locator("#hyperparameters details[data-key=architecture]")
        architecture.locator("summary").click()
        assert "block_3" in architecture.locator("table").inner_text()


class TestTensorBoard:
    def test_another_address_and_dark_mode_are_followed(self, page, board):
        tab = in_tensorboard(page, board, layers='["head"]')
        paper = "chart => getComputedStyle(chart.querySelector('.main-svg')).backgroundColor"

        def brightness():
            colours = [tab.locator("#lines").evaluate(paper)]
            colours.append(tab.locator("body").evaluate("b => getComputedStyle(b).backgroundColor"))
            return [max(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]

        assert min(brightness()) > 200
        page.get_by_label("Menu for changing light or dark theme").click()
        settle(tab, lambda: page.get_by_text("Dark", exact=True).click())
        assert max(brightness()) < 80
        address = f"{board.url}#layerwise&p.layerwise.stat=l2"
        settle(tab, lambda: page.evaluate("url => { location = url }", address))
        assert tab.locator("#statistic").input_value() == "l2"

    def test_the_tab_is_there_and_keeps_its_choices_in_the_address(self, page, board):
        page.goto(board.url)
        page.get_by_role("tab", name="Layerwise").click()
        tab = tab_browser.tab(page)
        assert tab.locator("#heatmap").is_visible()
        settle(tab, lambda: tab.locator("#statistic").select_option("cosine"))
        settle(tab, lambda: tab.get_by_text("Linear", exact=True).click())
        settle(tab, lambda: tab.locator("#runs label", has_text=DECAY).click())
        kept = chosen(page)
        assert (kept["stat"], kept["scale"]) == ("cosine", "linear")
        assert DECAY not in json.loads(kept["runs"])
        page.reload()
        tab = tab_browser.tab(page)
        assert tab.locator("#statistic").input_value() == "cosine"
        assert tab.locator("input[value=linear]").is_checked()
        assert not tab.locator("#runs label", has_text=DECAY).locator("input").is_checked()
        page.get_by_role("tab", name="Text").click()
        page.get_by_role("tab", name="Layerwise").click()
        tab_browser.wait_for(lambda: chosen(page) == kept, "the choices in the address")

    def test_it_needs_no_eval_and_no_inline_script(self, page, board):
        def stricter(route):
            answer = route.fetch()
            policy = answer.headers["content-security-policy"].replace("'unsafe-eval'", "")
            route.fulfill(
                response=answer, headers={**answer.headers, "content-security-policy": policy}
            )

        page.route("**/plugin_entry.html*", stricter)
        tab = opened(page, board, layers='["head"]')
        assert tab.locator("#lines .scatterlayer").count()

    def test_a_run_that_is_being_written_grows_with_a_reload(self, page, tmp_path):
        step = threading.Event()
        more = threading.Event()

        class Wait(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 1:
                    step.set()
                    more.wait(tab_browser.PATIENCE)

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="only")])
        model.compile("sgd", "mse")
        callbacks = [
            kl.WeightDrift(tmp_path / "run", flush_seconds=0.2),
            kl.FreezeHyperparameters(tmp_path / "run"),
            Wait(),
        ]
        data = np.ones((4, 2)), np.ones((4, 1))
        training = threading.Thread(
            target=model.fit, args=data, kwargs={"epochs": 4, "verbose": 0, "callbacks": callbacks}
        )
        with tab_browser.tensorboard(tmp_path) as board:
            page.goto(f"{board.url}#layerwise&p.layerwise.layers=%5B%22only%22%5D")
            training.start()
            assert step.wait(tab_browser.PATIENCE)

            def columns():
                page.locator(".reload-button").click()
                page.wait_for_timeout(300)
                return tab_browser.tab(page).locator("#lines").evaluate("c => c.data?.[0].x.length")

            tab_browser.wait_for(lambda: columns() == 2, "two records")
            tab = tab_browser.tab(page)
            assert "running" in tab.locator("#runs .badge").inner_text()
            more.set()
            training.join(tab_browser.PATIENCE)
            tab_browser.wait_for(lambda: columns() == 4, "four records")
            tab_browser.wait_for(
                lambda: "finished" in tab.locator("#runs .badge").inner_text() or columns() < 0,
                "the end",
            )
            page.goto("about:blank")  # it would miss the server that ends now

    def test_without_a_chosen_run_it_says_so(self, page, board):
        tab = opened(page, board, runs="[]")
        assert tab.locator("#nothing").inner_text().startswith("No run is chosen")
        assert tab.locator("main .card:visible").count() == 1
        settle(tab, lambda: tab.locator("#runs label", has_text=FULL).click())
        assert tab.locator("#nothing").is_hidden()

    def test_an_empty_log_directory_says_what_to_do(self, page, tmp_path):
        with tab_browser.tensorboard(tmp_path) as board:
            tab = opened(page, board)
            assert "WeightDrift" in tab.locator("#empty").inner_text()
            assert tab.locator("#drift-card").is_hidden()


class TestText:
    def test_names_are_text_never_markup(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]), layers=json.dumps([HOSTILE]))
        tab.locator("#table summary").click()
        for details in tab.locator("#hyperparameters details").all():
            details.evaluate("d => { d.open = true }")
        assert tab.locator("body").evaluate("b => b.querySelectorAll('img, b').length") == 0
        assert tab.locator("#tables tbody th").nth(2).inner_text() == HOSTILE
        assert tab.locator("#chips button").inner_text().startswith(HOSTILE)
        assert HOSTILE in tab.locator("#alarms").inner_text()
        assert HOSTILE in tab.locator("#hyperparameters").inner_text()
        titles = tab.locator("#runs label").evaluate_all("all => all.map(e => e.title)")
        assert logs[2] in titles
        point_at(page, tab, HOSTILE, 20, len(STEPS))
        assert tab.locator("#tooltip strong").inner_text() == HOSTILE


class TestFiles:
    def test_the_pictures_can_be_saved(self, page, board, tmp_path):
        tab = opened(page, board, layers='["head"]')
        for name in ("drift", "lines"):
            picture = saved(page, tab.locator(f"#{name}-svg"), tmp_path / f"{name}.svg")
            assert "head" in "".join(ElementTree.fromstring(picture).itertext())
            content = saved(page, tab.locator(f"#{name}-png"), tmp_path / f"{name}.png")
            assert content.startswith(b"\x89PNG")
            assert int.from_bytes(content[16:20]) > 1000  # pixels across

    def test_the_data_can_be_saved(self, page, board, logs, tmp_path):
        tab = opened(page, board, runs=BOTH, stat="l2")
        saved(page, tab.locator("#drift-csv"), tmp_path / "data.csv")
        with (tmp_path / "data.csv").open(newline="") as file:
            lines = list(csv.reader(file))
        history = logs[1][DECAY]
        assert lines[0] == ["run", "step", *history["layers"]]
        assert lines[-1][:2] == [DECAY, str(history["step"][-1])]
        np.testing.assert_array_equal(np.array(lines[-1][2:], "f4"), history["l2"][-1].astype("f4"))


class TestAccess:
    def test_keys_alone_reach_layers_and_statistics(self, page, board):
        tab = opened(page, board, runs=ONE)
        tab.locator("#statistic").focus()
        settle(tab, lambda: page.keyboard.press("ArrowDown"))
        tab.locator("#table summary").focus()
        page.keyboard.press("Enter")
        tab.locator("#tables button").first.wait_for()
        for _ in range(2):  # the table's own place for scrolling, then its first layer
            page.keyboard.press("Tab")
        focused = tab.locator("#tables button:focus")
        focused.wait_for()
        settle(tab, lambda: page.keyboard.press("Enter"))
        assert focused.get_attribute("aria-pressed") == "true"
        assert json.loads(chosen(page)["layers"]) == [focused.inner_text()]

    def test_what_is_drawn_anew_keeps_the_focus(self, page, board, logs):
        tab = opened(page, board, runs=json.dumps([logs[2]]))
        alarm = tab.locator("#alarms button").nth(1)
        alarm.focus()
        settle(tab, lambda: page.keyboard.press("Enter"))
        assert alarm.evaluate("e => e === document.activeElement")
        tab.locator("#chips button").focus()
        settle(tab, lambda: page.keyboard.press("Enter"))
        assert tab.locator("#add-layer").evaluate("e => e === document.activeElement")
        box = tab.locator("#runs input").first
        box.focus()
        settle(tab, lambda: page.keyboard.press("Space"))
        assert box.evaluate("e => e === document.activeElement")

    def test_everything_has_a_name(self, page, board):
        tab = opened(page, board, layers='["head"]')
        nameless = tab.locator("body").evaluate(
            """body => [...body.querySelectorAll("button, a, input, select, [role=img]")]
                .filter(e => !e.closest("[hidden], .js-plotly-plot *, .small"))
                .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
                .map(e => e.outerHTML)"""
        )
        assert nameless == []
        names = (
            tab.locator("header")
            .locator("button, a")
            .evaluate_all("all => all.map(e => e.ariaLabel || e.textContent)")
        )
        assert len(names) == len(set(names)) == 21
        label = tab.locator("#heatmap").get_attribute("aria-label")
        assert "alarm" in label
        assert "table below" in label

    def test_the_table_has_the_models_layers_in_order_and_the_pictures_values(
        self, page, board, logs
    ):
        history = logs[1][FULL]
        tab = opened(page, board, runs=ONE, stat="l2")
        tab.locator("#table summary").click()
        names = tab.locator("#tables tbody th").all_inner_texts()
        assert names == history["layers"]
        states = tab.locator("#tables tbody td:nth-child(2)").all_inner_texts()
        assert states[names.index("head")] == "trainable"
        assert "non-trainable weights" in states
        last = tab.locator("#tables tbody tr td:last-child").all_inner_texts()
        assert [np.float32(text) for text in last] == history["l2"][-1].astype("f4").tolist()

"""What TensorBoard loads: the routes of the tab, and nothing heavy."""

import csv
import functools
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from keras_layerwise.storage import schema
from keras_layerwise.storage.record import GROUPS, Record
from keras_layerwise.storage.values import flat
from keras_layerwise.tab.reading import Matrix, Reader, UnknownRunError, describe

CHARTS = "vendor/plotly.js-cartesian-dist-min-4.1.1/plotly-cartesian.min.js"

_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_FILES = (
    "index.js",
    "app.js",
    "charts.js",
    "data.js",
    "dom.js",
    "heatmap.js",
    "host.js",
    "hyperparameters.js",
    "lines.js",
    "marks.js",
    "scale.js",
    "page.html",
    "style.css",
    CHARTS,
)
_DAY = 24 * 60 * 60
_COLUMNS = (16, 4096)


def _answering(handler: Callable[..., wrappers.Response]) -> Any:
    """A WSGI application of `handler`, with its errors as what a browser is told."""

    @functools.wraps(handler)
    def answer(*arguments: Any) -> wrappers.Response:
        try:
            return handler(*arguments)
        except UnknownRunError as error:
            raise errors.NotFoundError(str(error)) from error
        except ValueError as error:  # what a run wrote is not what it should be
            raise errors.InvalidArgumentError(str(error)) from error

    return wrappers.Request.application(answer)


class LayerwisePlugin(base_plugin.TBPlugin):
    """Serves the page and what it draws, from the data provider's tensors."""

    plugin_name = schema.PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._reader = Reader(context.data_provider)

    def get_plugin_apps(self) -> dict[str, Any]:
        """The routes, all of them known beforehand."""
        files = {f"/{name}": functools.partial(self._file, name) for name in _FILES}
        return files | {
            "/runs": self._runs,
            "/matrix": self._matrix,
            "/record": self._record,
            "/csv": self._csv,
        }

    def is_active(self) -> bool:
        """False: where there is data TensorBoard sees it by the plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where the page starts."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Layerwise")

    @_answering
    def _file(self, name: str, request: wrappers.Request) -> wrappers.Response:
        path = _STATIC / name
        return http_util.Respond(
            request,
            path.read_bytes(),
            _TYPES[path.suffix],
            expires=_DAY if name == CHARTS else 0,
        )

    @_answering
    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        ctx, experiment = _asked_for(request)
        answer = []
        for run in self._reader.runs(ctx, experiment).values():
            try:
                answer.append(
                    describe(run)
                    | {
                        kind: self._reader.messages(ctx, experiment, run, kind)
                        for kind in ("alarms", "changes")
                    }
                    | {"problems": run.problems}
                )
            except Exception as error:  # one broken run must not hide the others
                answer.append(_broken(run.name, run.problems, error))
        return http_util.Respond(request, {"runs": answer}, "application/json")

    @_answering
    def _matrix(self, request: wrappers.Request) -> wrappers.Response:
        ctx, experiment = _asked_for(request)
        run = self._reader.run(ctx, experiment, _argument(request, "run"))
        limit = min(max(_number(request, "columns"), _COLUMNS[0]), _COLUMNS[1])
        matrix = self._reader.matrix(
            ctx,
            experiment,
            run,
            _argument(request, "topic"),
            limit,
            quick=request.args.get("quick") == "1",
        )
        return http_util.Respond(request, _packed(matrix), "application/octet-stream")

    @_answering
    def _record(self, request: wrappers.Request) -> wrappers.Response:
        ctx, experiment = _asked_for(request)
        run = self._reader.run(ctx, experiment, _argument(request, "run"))
        messages = self._reader.messages(ctx, experiment, run, "record")
        answer = _side_by_side(messages[-1]) if messages else None
        return http_util.Respond(request, {"record": answer}, "application/json")

    @_answering
    def _csv(self, request: wrappers.Request) -> wrappers.Response:
        """Every record of one topic, a line per run and step and a field per row."""
        ctx, experiment = _asked_for(request)
        topic = _argument(request, "topic")
        names = request.args.getlist("run")
        tables = {}
        for name in names:
            run = self._reader.run(ctx, experiment, name)
            tables[name] = self._reader.records(ctx, experiment, run, topic)
        header = list(dict.fromkeys(row.name for rows, _, _ in tables.values() for row in rows))
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["run", "step", *map(_cell, header)])
        for name, (rows, steps, values) in tables.items():
            place = [header.index(row.name) for row in rows]
            wide = np.full((len(steps), len(header)), np.nan, np.float32)
            wide[:, place] = values
            for step, line in zip(steps.tolist(), wide, strict=True):
                writer.writerow([_cell(name), step, *map(_text, line)])
        return http_util.Respond(
            request,
            out.getvalue(),
            "text/csv",
            headers=[("Content-Disposition", 'attachment; filename="layerwise.csv"')],
        )


class LayerwiseLoader(base_plugin.TBLoader):
    """Loads the tab, and asks TensorBoard to keep every record of it."""

    def fix_flags(self, flags: Any) -> None:
        """Keeps all records, unless the user asked for a number of them."""
        flags.samples_per_plugin.setdefault(schema.PLUGIN, 0)

    def load(self, context: base_plugin.TBContext) -> LayerwisePlugin | None:
        """The tab; none where TensorBoard runs without a data provider."""
        return LayerwisePlugin(context) if context.data_provider is not None else None


def _asked_for(request: wrappers.Request) -> tuple[Any, str]:
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)


def _argument(request: wrappers.Request, name: str) -> str:
    value = request.args.get(name)
    if value is None:
        raise errors.InvalidArgumentError(f"The request lacks {name!r}.")
    return str(value)


def _number(request: wrappers.Request, name: str) -> int:
    text = _argument(request, name)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise errors.InvalidArgumentError(f"{name!r} must be a whole number; received {text!r}.")
    return int(text)


def _broken(name: str, problems: list[str], error: Exception) -> dict[str, Any]:
    return {
        "name": name,
        "statistics": [],
        "reference": None,
        "rows": [],
        "stamps": {},
        "alarms": [],
        "changes": [],
        "problems": [*problems, f"{type(error).__name__}: {error}"],
    }


def _side_by_side(message: dict[str, Any]) -> dict[str, Any]:
    """A record with its values by key, as JSON texts: in JavaScript 1 and 1.0 are one number."""
    record = Record.from_json(message)
    values = {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False)
        for key, value in flat(record.values).items()
    }
    return {k: v for k, v in record.to_json().items() if k not in GROUPS} | {"values": values}


def _packed(matrix: Matrix) -> bytes:
    """A length, a header in JSON, and the values as little-endian float32.

    As JSON the numbers would take the browser and the server several times as long.
    """
    header = json.dumps(
        {
            "rows": [row.name for row in matrix.rows],
            "first": matrix.columns.first.tolist(),
            "last": matrix.columns.last.tolist(),
            "exact": matrix.exact,
        }
    ).encode()
    header += b" " * (-len(header) % 4)
    return struct.pack("<I", len(header)) + header + matrix.columns.values.tobytes()


def _text(value: np.float32) -> str:
    return "" if np.isnan(value) else str(value)


def _cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text

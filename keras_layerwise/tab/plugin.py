"""What TensorBoard loads: the routes of the tab, and nothing heavy."""

import contextlib
import functools
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from keras_layerwise.storage import schema
from keras_layerwise.tab import tables
from keras_layerwise.tab.describing import broken, describe, shared_rows, with_turns
from keras_layerwise.tab.metrics import Metrics, span_of
from keras_layerwise.tab.reading import Matrix, Reader, Run, UnknownRunError
from keras_layerwise.tab.sheets import differing
from keras_layerwise.tab.tensors import EVERYTHING

CHARTS = "vendor/plotly.js-cartesian-dist-min-4.1.1/plotly-cartesian.min.js"

_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_FILES = (*sorted(path.name for path in _STATIC.iterdir() if path.suffix in _TYPES), CHARTS)
_METHODS = ("GET", "HEAD")
_DAY = 24 * 60 * 60
_COLUMNS = (16, 4096)


def _answering(handler: Callable[..., wrappers.Response]) -> Any:
    """Gives a WSGI application of `handler`, with its errors as what a browser is told."""

    @functools.wraps(handler)
    def answer(*arguments: Any) -> wrappers.Response:
        if arguments[-1].method not in _METHODS:
            said = "The tab only reads: it answers GET and HEAD."
            return wrappers.Response(said, 405, {"Allow": ", ".join(_METHODS)})
        try:
            return handler(*arguments)
        except UnknownRunError as error:
            raise errors.NotFoundError(str(error)) from error
        except (ValueError, RecursionError) as error:  # what a run wrote is not what it should be
            raise errors.InvalidArgumentError(str(error)) from error

    return wrappers.Request.application(answer)


class LayerwisePlugin(base_plugin.TBPlugin):
    """Serves the page and what it draws, from the data provider's tensors."""

    plugin_name = schema.PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._reader = Reader(self._provider, context.multiplexer)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Gives the routes, all of them known beforehand."""
        files = {f"/{name}": functools.partial(self._file, name) for name in _FILES}
        return files | {
            "/runs": self._runs,
            "/matrix": self._matrix,
            "/matrices": self._matrices,
            "/record": self._record,
            "/records": self._records,
            "/metrics": self._metrics,
            "/metric": self._metric,
            "/csv": self._csv,
        }

    def is_active(self) -> bool:
        """Says no: where there is data TensorBoard sees it by the plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Tells where the page starts."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Layerwise")

    @_answering
    def _file(self, name: str, request: wrappers.Request) -> wrappers.Response:
        kind = _TYPES[Path(name).suffix]
        if name != CHARTS:
            return http_util.Respond(request, (_STATIC / name).read_bytes(), kind)
        return http_util.Respond(request, _charts(), kind, content_encoding="gzip", expires=_DAY)

    @_answering
    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        ctx, experiment = _asked_for(request)
        answer = []
        runs = self._reader.runs(ctx, experiment)
        self._reader.ahead(
            ctx, experiment, runs.values(), ("alarms", "changes", "frozen"), EVERYTHING
        )
        for run in runs.values():
            try:
                alarms, changes = (
                    self._reader.messages(ctx, experiment, run, kind)
                    for kind in ("alarms", "changes")
                )
                told = {
                    "alarms": alarms,
                    "changes": with_turns(changes, self._reader.turns(ctx, experiment, run)),
                    "problems": run.problems,
                }
                answer.append(describe(run) | told)
            except Exception as error:  # one broken run must not hide the others
                answer.append(broken(run.name, run.problems, error))
        return http_util.Respond(request, shared_rows(answer), "application/json")

    @_answering
    def _matrix(self, request: wrappers.Request) -> wrappers.Response:
        ctx, experiment = _asked_for(request)
        run = self._reader.run(ctx, experiment, _argument(request, "run"))
        packed = self._values(request, run)
        return http_util.Respond(request, packed, "application/octet-stream")

    @_answering
    def _matrices(self, request: wrappers.Request) -> wrappers.Response:
        """Sends the matrices of several runs; of one that cannot be read, what is wrong with it."""
        ctx, experiment = _asked_for(request)
        names = request.args.getlist("run")
        runs = self._reader.runs(ctx, experiment, names)
        if _is_quick(request):
            # One record more tells that there are more.
            most = _columns(request) + 1
            topics = (_argument(request, "topic"),)
            self._reader.ahead(ctx, experiment, runs.values(), topics, most)
        parts = []
        for name in names:
            try:
                if name not in runs:
                    raise UnknownRunError(f"No run {name!r} with layerwise data.")
                packed = self._values(request, runs[name])
            except (ValueError, LookupError, RecursionError) as error:
                packed = _with_header({"error": str(error)}, b"")
            parts.append(struct.pack("<I", len(packed)) + packed)
        return http_util.Respond(request, b"".join(parts), "application/octet-stream")

    def _values(self, request: wrappers.Request, run: Run) -> bytes:
        ctx, experiment = _asked_for(request)
        matrix = self._reader.matrix(
            ctx,
            experiment,
            run,
            _argument(request, "topic"),
            _columns(request),
            quick=_is_quick(request),
            span=_span(request),
        )
        return _packed(matrix)

    @_answering
    def _record(self, request: wrappers.Request) -> wrappers.Response:
        """Gives one run's record with all its values."""
        ctx, experiment = _asked_for(request)
        run = self._reader.run(ctx, experiment, _argument(request, "run"))
        sheet = self._reader.sheet(ctx, experiment, run)
        answer = None if sheet is None else sheet.to_json()
        return http_util.Respond(request, {"record": answer}, "application/json")

    @_answering
    def _records(self, request: wrappers.Request) -> wrappers.Response:
        """Gives the records of several runs, with those values that are not the same in all."""
        ctx, experiment = _asked_for(request)
        names = request.args.getlist("run")
        runs = self._reader.runs(ctx, experiment, names)
        sheets, problems = {}, {}
        for name in names:
            try:
                found = self._reader.sheet(ctx, experiment, runs[name])
                if found is not None:
                    sheets[name] = found
            except (KeyError, ValueError) as error:
                problems[name] = str(error)
        keys = differing(sheets.values())
        same = len({key for sheet in sheets.values() for key in sheet.values}) - len(keys)
        records = {
            name: sheet.to_json([key for key in keys if key in sheet.values])
            for name, sheet in sheets.items()
        }
        answer = {"records": records, "problems": problems, "same": same}
        return http_util.Respond(request, answer, "application/json")

    @_answering
    def _metrics(self, request: wrappers.Request) -> wrappers.Response:
        """Gives the names of TensorBoard's scalars of the chosen runs."""
        ctx, experiment = _asked_for(request)
        scalars = self._scalars(ctx, experiment)
        names: dict[str, None] = {}
        for run in request.args.getlist("run"):
            names |= dict.fromkeys(scalars.tags(run))
        return http_util.Respond(request, {"metrics": list(names)}, "application/json")

    @_answering
    def _metric(self, request: wrappers.Request) -> wrappers.Response:
        """Gives one scalar of the chosen runs."""
        ctx, experiment = _asked_for(request)
        name = _argument(request, "name")
        scalars = self._scalars(ctx, experiment)
        answer = scalars.curves(request.args.getlist("run"), name)
        return http_util.Respond(request, {"curves": answer}, "application/json")

    def _scalars(self, ctx: Any, experiment: str) -> Metrics:
        runs = self._reader.runs(ctx, experiment)
        spans = {}
        for name, run in runs.items():
            with contextlib.suppress(ValueError):  # its page says what is wrong with its record
                sheet = self._reader.sheet(ctx, experiment, run)
                span = span_of(sheet.texts) if sheet is not None else None
                if span is not None:
                    spans[name] = span
        return Metrics(self._provider, ctx, experiment, runs, spans)

    @_answering
    def _csv(self, request: wrappers.Request) -> wrappers.Response:
        """Gives every record of one topic, a line per run and step and a field per row.

        Of the rows those that `layer` names, all where it names none.
        """
        ctx, experiment = _asked_for(request)
        topic = _argument(request, "topic")
        runs = [self._reader.run(ctx, experiment, name) for name in request.args.getlist("run")]
        header = dict.fromkeys(row.name for run in runs for row in run.rows(run.of(topic)))
        wanted = request.args.getlist("layer") or header
        lines = tables.lines(
            [name for name in header if name in wanted],
            [
                (run.name, functools.partial(self._reader.records, ctx, experiment, run, topic))
                for run in runs
            ],
        )
        named = {"Content-Disposition": 'attachment; filename="layerwise.csv"'}
        return wrappers.Response(lines, mimetype="text/csv", headers=named)


class LayerwiseLoader(base_plugin.TBLoader):
    """Loads the tab, and asks TensorBoard to keep every record of it."""

    def fix_flags(self, flags: Any) -> None:
        """Keeps all records, unless the user asked for a number of them."""
        flags.samples_per_plugin.setdefault(schema.PLUGIN, 0)

    def load(self, context: base_plugin.TBContext) -> LayerwisePlugin | None:
        """Gives the tab; none where TensorBoard runs without a data provider."""
        return LayerwisePlugin(context) if context.data_provider is not None else None


@functools.cache
def _charts() -> bytes:
    """Gives the chart library, compressed once and better than each answer would be."""
    return gzip.compress((_STATIC / CHARTS).read_bytes())


def _asked_for(request: wrappers.Request) -> tuple[Any, str]:
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)


def _argument(request: wrappers.Request, name: str) -> str:
    value = request.args.get(name)
    if value is None:
        raise errors.InvalidArgumentError(f"The request lacks {name!r}.")
    return str(value)


def _number(request: wrappers.Request, name: str) -> int:
    text = _argument(request, name)
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise errors.InvalidArgumentError(f"{name!r} must be a whole number; received {text!r}.")
    return int(text)


def _columns(request: wrappers.Request) -> int:
    """Gives how many columns are asked for, within reason."""
    return min(max(_number(request, "columns"), _COLUMNS[0]), _COLUMNS[1])


def _is_quick(request: wrappers.Request) -> bool:
    return request.args.get("quick") == "1" and "first" not in request.args


def _span(request: wrappers.Request) -> tuple[int, int] | None:
    """Gives the steps that are asked for, None for all."""
    if "first" not in request.args:
        return None
    return _number(request, "first"), _number(request, "last")


def _packed(matrix: Matrix) -> bytes:
    """Gives a length, a header in JSON, and the values as little-endian float32.

    As JSON the numbers would take the browser and the server several times as long.
    """
    columns = matrix.columns
    header = {
        "rows": [row.name for row in matrix.rows],
        "first": columns.first.tolist(),
        "last": columns.last.tolist(),
        "times": columns.times.tolist(),
        "exact": matrix.exact,
    }
    return _with_header(header, columns.values.tobytes())


def _with_header(header: dict[str, Any], content: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + content

"""A run as the page is told of it before it asks for values."""

from dataclasses import asdict
from typing import Any

from keras_layerwise.storage import schema
from keras_layerwise.tab.reading import Run

_STATE = " (non-trainable)"


def describe(run: Run) -> dict[str, Any]:
    """Gives statistics, rows and how far each series has come."""
    drift = [source for source in run.sources if source.series.kind == "drift"]
    by_topic = {topic: run.of(topic) for topic in {s.topic for s in run.sources}}
    told = [schema.facts_of(source.series) for source in drift]
    facts = {one.name: one for one in told if one}
    first = run.of(drift[0].topic) if drift else []
    return {
        "name": run.name,
        "statistics": [
            *(name for name in schema.STATISTICS if name in by_topic),
            *(name for name in facts if name not in schema.STATISTICS),
        ],
        "facts": {name: asdict(one) for name, one in facts.items()},
        "reference": next((s.series.reference for s in drift if s.series.reference), None),
        "rows": run.rows(first),
        "stamps": {topic: [s.stamp for s in sources] for topic, sources in by_topic.items()},
        "ended": max((source.ended for source in run.sources), default=None),
    }


def shared_rows(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs of `describe` as they are sent: the runs of a sweep have the same rows, sent once."""
    places: dict[tuple[schema.Row, ...], int] = {}
    runs = [run | {"rows": places.setdefault(run["rows"], len(places))} for run in told]
    return {"runs": runs, "rows": [[asdict(row) for row in rows] for rows in places]}


def with_turns(changes: list[dict[str, Any]], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds those turns to the changes that no change of a row, or of a weight in it, tells."""
    told = {(change.get("what"), prefix) for change in changes for prefix in _above(change["row"])}
    return [*changes, *(turn for turn in turns if (turn["what"], _layer(turn["row"])) not in told)]


def _layer(row: str) -> str:
    """Gives the layer of a row, which may be of its moving averages."""
    return row.removesuffix(_STATE)


def _above(row: str) -> list[str]:
    parts = row.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def broken(name: str, problems: list[str], error: Exception) -> dict[str, Any]:
    """Gives a run of which nothing can be shown but what is wrong with it."""
    return {
        "name": name,
        "statistics": [],
        "facts": {},
        "reference": None,
        "rows": (),
        "stamps": {},
        "ended": None,
        "alarms": [],
        "changes": [],
        "problems": [*problems, f"{type(error).__name__}: {error}"],
    }

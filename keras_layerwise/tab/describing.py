"""A run as the page is told of it before it asks for values."""

from dataclasses import asdict
from typing import Any

from keras_layerwise.storage import schema
from keras_layerwise.tab.reading import Run


def describe(run: Run) -> dict[str, Any]:
    """Statistics, rows and how far each series has come."""
    drift = [source for source in run.sources if source.series.kind == "drift"]
    by_topic = {topic: run.of(topic) for topic in {s.topic for s in run.sources}}
    first = run.of(drift[0].topic) if drift else []
    return {
        "name": run.name,
        "statistics": [s for s in schema.STATISTICS if s in by_topic],
        "reference": next((s.series.reference for s in drift if s.series.reference), None),
        "rows": [asdict(row) for row in run.rows(first)],
        "stamps": {topic: [s.stamp for s in sources] for topic, sources in by_topic.items()},
        "ended": max((source.ended for source in run.sources), default=None),
    }


def broken(name: str, problems: list[str], error: Exception) -> dict[str, Any]:
    """A run of which nothing can be shown but what is wrong with it."""
    return {
        "name": name,
        "statistics": [],
        "reference": None,
        "rows": [],
        "stamps": {},
        "ended": None,
        "alarms": [],
        "changes": [],
        "problems": [*problems, f"{type(error).__name__}: {error}"],
    }

"""Scalars that TensorBoard shows of the same training: losses, accuracies, what a user wrote."""

import posixpath
import re
from typing import Any

from tensorboard.data.provider import RunTagFilter

from keras_layerwise.storage import schema
from keras_layerwise.tab.reading import INSIDE

_PLUGIN = "scalars"
# One for each layer, which the tab has as vectors.
_OWN = re.compile(r"(epoch_|batch_)?(drift|learning_rate)/")
_MOST = 1000  # points of one curve


def tags(provider: Any, ctx: Any, experiment: str, run: str) -> dict[str, tuple[str, str]]:
    """Gives the metrics of a run by name, each with TensorBoard's run and tag."""
    listing = provider.list_scalars(ctx, experiment_id=experiment, plugin_name=_PLUGIN)
    found = {}
    for member, listed in sorted(listing.items()):
        below = posixpath.relpath(member, run) if run != "." else member
        if below.startswith("..") or below.count("/") or below == schema.RECORD_DIR:
            continue
        for tag in sorted(listed):
            if not _OWN.match(tag):
                own = below in (".", *INSIDE)
                found[tag if own else f"{below}/{tag}"] = (member, tag)
    return found


def curve(provider: Any, ctx: Any, experiment: str, run: str, name: str) -> dict[str, Any]:
    """Gives steps, wall times and values of one metric, empty where the run does not have it."""
    place = tags(provider, ctx, experiment, run).get(name)
    data: list[Any] = []
    if place is not None:
        member, tag = place
        answer = provider.read_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name=_PLUGIN,
            downsample=_MOST,
            run_tag_filter=RunTagFilter(runs=[member], tags=[tag]),
        )
        data = answer.get(member, {}).get(tag, [])
    values = [datum.value for datum in data]
    return {
        "steps": [datum.step for datum in data],
        "times": [datum.wall_time for datum in data],
        "values": [value if abs(value) < float("inf") else None for value in values],
    }

"""Tensors of TensorBoard's runs through its data provider, those of many runs in one call."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter

from keras_layerwise.storage import schema
from keras_layerwise.tab.cache import Cache
from keras_layerwise.tab.picking import Datum, picked

# The largest number of records that both loaders take.
EVERYTHING = 2**31 - 1


@dataclass(frozen=True)
class Source:
    """One tag: where it is, what it holds, how far it has come and when it ended."""

    run: str
    tag: str
    series: schema.Series
    stamp: str
    ended: float

    @property
    def topic(self) -> str:
        """What the tag's values are about: a statistic, or the series' kind."""
        if self.series.kind == "blocks" and self.series.facts is not None:
            return f"blocks/{self.series.facts.name}"
        return self.series.statistic or self.series.kind


class Tensors:
    """Reads sources, one by one or many ahead.

    Args:
        provider: TensorBoard's data provider.
        multiplexer: what it reads from, where that is in this process; see `picked`.
        cache: keeps what was read ahead.
    """

    def __init__(self, provider: Any, multiplexer: Any, cache: Cache) -> None:
        self._provider = provider
        self._multiplexer = multiplexer
        self._cache = cache

    def ahead(self, ctx: Any, experiment: str, sources: Iterable[Source], limit: int) -> None:
        """Reads `sources` in one call, unless that was done before.

        Each call to the data server waits some 40 ms, whatever it reads: one for each of a
        hundred runs took seconds.
        """
        if self._multiplexer is not None:
            return  # no server to wait for
        wanted = {}
        for source in sources:
            key = _key(experiment, source, limit)
            if self._cache.get(("ahead", key)) is None:
                wanted[source.run, source.tag] = key
                self._cache.put(("ahead", key), True, 200)
        if len(wanted) < 2:
            return
        runs, tags = (sorted(set(names)) for names in zip(*wanted, strict=True))
        try:
            read = self._call(ctx, experiment, runs, tags, limit)
        except (TypeError, ValueError):
            return  # of one of them: when it is read by itself, it is said of which
        for (run, tag), key in wanted.items():
            found = read.get(run, {}).get(tag, [])
            self._cache.put(key, found, sum(_size(tensor) for _, _, tensor in found))

    def read(self, ctx: Any, experiment: str, source: Source, limit: int) -> list[Datum]:
        """Gives at most `limit` records of one source.

        Raises:
            schema.SchemaError: where TensorBoard can not make tensors of them.
        """
        key = _key(experiment, source, limit)
        found: list[Datum] | None = self._cache.get(key)
        if found is not None:
            return found
        try:
            if self._multiplexer is not None and limit < EVERYTHING:
                return picked(self._multiplexer, source.run, source.tag, limit)
            read = self._call(ctx, experiment, [source.run], [source.tag], limit)
        except (TypeError, ValueError) as error:  # TensorBoard's, for a tensor that is none
            raise schema.SchemaError(
                f"{source.tag} of run {source.run!r} holds what is no tensor: {error}"
            ) from error
        return read.get(source.run, {}).get(source.tag, [])

    def _call(
        self, ctx: Any, experiment: str, runs: list[str], tags: list[str], limit: int
    ) -> dict[str, dict[str, list[Datum]]]:
        read = self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            downsample=limit,
            run_tag_filter=RunTagFilter(runs=runs, tags=tags),
        )
        return {
            run: {
                tag: [(datum.step, datum.wall_time, datum.numpy) for datum in data]
                for tag, data in by_tag.items()
            }
            for run, by_tag in read.items()
        }


def _key(experiment: str, source: Source, limit: int) -> tuple[Any, ...]:
    return "data", experiment, source.run, source.tag, source.stamp, limit


def _size(tensor: Any) -> int:
    """Gives the bytes of a tensor, with those of its texts."""
    return 200 + int(tensor.nbytes if tensor.dtype != object else sum(map(len, tensor.flat)))

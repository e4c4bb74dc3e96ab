"""What TensorBoard draws without a plugin, and Matplotlib figures: pure, values in, charts out."""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata

_WIDTH, _HEIGHT = 800, 600  # about how large a heat-map is shown
_MOST_COLUMNS = 400
_DECADES = 6  # that colours tell apart: the weakest movement would else make all others alike
_TICKS = 24  # steps that are named below a figure's heat-map
_LEGEND = 12  # lines that a legend can tell apart
_NAMED = 3  # of more lines, those that are named at their end
# From nothing to the most: dark violet, blue, green, yellow, as perceived evenly.
_COLOURS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float
)
_UNDEFINED = (200, 200, 200)


def tag(statistic: str, row: str) -> str:
    """Gives the tag of one row's scalar."""
    return f"drift/{statistic}/{row}"


def heatmap(values: npt.NDArray[np.float64]) -> tuple[bytes, int, int]:
    """Draws rows over steps.

    Args:
        values: shape ``(rows, steps)``; grey where it is not finite. Colours
            go with the logarithm of the magnitude, over the six decades below
            the largest.

    Returns:
        A PNG image, its width and its height.
    """
    columns = values.shape[1]
    if columns > _MOST_COLUMNS:
        values = values[:, np.linspace(0, columns - 1, _MOST_COLUMNS).astype(int)]
    magnitude = np.abs(values)
    known = np.isfinite(magnitude)
    most = magnitude[known].max(initial=0.0) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.clip(1 + np.log10(magnitude / most) / _DECADES, 0, 1) * (len(_COLOURS) - 1)
    level = np.where(known, level, 0)
    low = np.minimum(level.astype(int), len(_COLOURS) - 2)
    part = (level - low)[..., None]
    pixels = _COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part
    pixels = np.where(known[..., None], pixels, _UNDEFINED).astype(np.uint8)
    tall = int(np.clip(_HEIGHT // len(values), 2, 24))
    wide = int(np.clip(_WIDTH // values.shape[1], 1, 24))
    pixels = pixels.repeat(tall, axis=0).repeat(wide, axis=1)
    return png(pixels), pixels.shape[1], pixels.shape[0]


def legend(history: dict[str, Any], statistic: str, about: str) -> str:
    """Tells what the heat-map's rows and columns are, as Markdown."""
    latest = history[statistic][-1]
    lines = [
        f"Rows of the heat-map of `{statistic}` against {about}, from the top; columns are the "
        f"records at steps {history['step'][0]} to {history['step'][-1]}. Colours are "
        "logarithmic, over six decades below the largest value; grey where it is not defined.",
        "",
        f"| row | layer | {statistic} |",
        "|---|---|---|",
    ]
    for i, name in enumerate(history["layers"]):
        lines.append(f"| {i + 1} | {name} | {latest[i]:.4g} |")
    return "\n".join(lines)


def layout(statistics: Sequence[str], rows: Sequence[str]) -> Any:
    """Gives the custom-scalars layout: all rows in one chart per statistic, and one chart a row."""

    def chart(title: str, tags: str) -> Any:
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[tags]))

    together = [chart(name, f"^{re.escape(tag(name, ''))}") for name in statistics]
    apart = [
        layout_pb2.Category(
            title=f"{name} by layer",
            closed=True,
            chart=[chart(row, f"^{re.escape(tag(name, row))}$") for row in rows],
        )
        for name in statistics
    ]
    content = layout_pb2.Layout(
        category=[layout_pb2.Category(title="drift, all layers", chart=together), *apart]
    )
    metadata = layout_metadata.create_summary_metadata()
    metadata.data_class = DATA_CLASS_TENSOR
    tensor = TensorProto(dtype=DT_STRING, string_val=[content.SerializeToString()])
    return Summary(
        value=[
            Summary.Value(tag=layout_metadata.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
        ]
    )


def figure(
    steps: npt.NDArray[np.int64], rows: list[str], values: npt.NDArray[np.float64], title: str
) -> Any:
    """Gives a Matplotlib figure of ``values[step, row]``: heat-map above, lines below."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    class Shown(Figure):
        """Shows itself in a notebook, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    drawn = Shown(figsize=(9, 4 + 0.16 * len(rows)), layout="constrained")
    above, below = drawn.subplots(2, 1, height_ratios=[max(1.0, 0.08 * len(rows)), 1.0])
    magnitude = np.ma.masked_invalid(np.abs(values.T))
    positive = magnitude[magnitude > 0].compressed()
    scale = None
    if positive.size > 1:
        lowest = max(positive.min(), positive.max() * 10.0**-_DECADES)
        scale = LogNorm(lowest, positive.max())
        # A logarithmic scale has no place for zero: below its end it is white.
        magnitude = np.ma.where(magnitude == 0, lowest / 2, np.ma.maximum(magnitude, lowest))
    colours = colormaps["viridis"].with_extremes(under="white", bad="0.75")
    mesh = above.imshow(magnitude, colours, scale, aspect="auto", interpolation="nearest")
    above.set_yticks(range(len(rows)), rows, fontsize=7)
    ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _TICKS)).astype(int))
    above.set_xticks(ticks, [str(steps[i]) for i in ticks], fontsize=7, rotation=90)
    above.set_title(f"{title} (white: exactly 0; grey: not defined)")
    drawn.colorbar(mesh, ax=above, extend="min" if scale else "neither")
    many = len(rows) > _LEGEND
    for i, row in enumerate(rows):
        colour = colormaps["viridis"](i / len(rows)) if many else None
        below.plot(steps, values[:, i], label=row, linewidth=1, color=colour)
    below.set_xlabel("step")
    below.set_ylabel(title)
    if many:
        below.set_title("from the first row, dark, to the last, light", fontsize=7)
        last = np.nan_to_num(np.abs(values[-1]), nan=-1.0, posinf=-1.0)
        for i in np.argsort(last)[-_NAMED:]:
            if last[i] >= 0:
                below.annotate(rows[i], (steps[-1], values[-1, i]), fontsize=6)
    else:
        below.legend(fontsize=7)
    return drawn


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Gives a PNG file of ``pixels[height, width, 3]``."""
    height, width, _ = pixels.shape
    # Each line begins with the number of its filter; 0 is none.
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)),
            chunk(b"IEND", b""),
        ]
    )

"""A run as a row of TensorBoard's HParams dashboard: protos in, protos out.

The dashboard reads the first start and the first end that it finds for a run.
An experiment is never written: one would hide the columns of all other runs.
"""

import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from keras_layerwise.storage.values import UNKNOWN, as_text

# "(" sorts before digits and letters: these columns come before every other scalar.
BEST = "(best)/"
FINAL = "(final)/"

# A filter compares a value with its JSON text, so what JSON escapes would never match.
_KEPT = "".join(chr(code) for code in range(32, 127) if chr(code) not in '"\\%')


def session_start(flat_values: Mapping[str, Any], time: float) -> Summary:
    """Gives the start of the run's session with a value for each key.

    Args:
        flat_values: keys as `record.flat` gives them. None, unknown and
            non-finite values are left out: each column keeps one type.
        time: seconds since 1970.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time)
    for key, value in flat_values.items():
        if isinstance(value, (list, dict)):
            value = as_text(value)
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, (int, float)) and math.isfinite(value):
            info.hparams[key].number_value = value
        elif isinstance(value, str) and value not in (UNKNOWN, "nan", "inf", "-inf"):
            info.hparams[key].string_value = urllib.parse.quote(value, safe=_KEPT)
    data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    return _summary(metadata.SESSION_START_INFO_TAG, data)


def session_end(success: bool, time: float) -> Summary:
    """Gives the end of the run's session."""
    status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return _summary(metadata.SESSION_END_INFO_TAG, data)


def _summary(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary:
    value = Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])

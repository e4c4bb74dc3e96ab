"""Sharded weights, on several devices and in several processes: what only JAX has."""

import json
import socket

import keras
import numpy as np
import pytest

from keras_layerwise.drift import sums

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="asks for JAX's sharded arrays"
)

FIT = """
    import json, sys
    import jax, keras, numpy as np
    import keras_layerwise as kl
    from keras_layerwise.storage.schema import STATISTICS
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    devices = [f"cpu:{device.id}" for device in jax.devices()]
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["dense/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="dense")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    y = np.random.default_rng(1).normal(size=(16, 8)).astype("float32")
    drift = kl.WeightDrift(sys.argv[1], update_freq=1, statistics=STATISTICS)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[drift])
    kernel = model.get_layer("dense").kernel.value
    history = {key: np.asarray(value).tolist() for key, value in drift.history.items()}
    print(json.dumps({"history": history, "shards": len(kernel.sharding.device_set)}))
"""

# Without a model: the arrays that Keras makes for two processes cannot be asked for their shards.
SUMS = """
    import json, sys, types
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    index, count, port = map(int, sys.argv[1:])
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    from keras_layerwise.backend.arrays import Watched
    from keras_layerwise.backend.processes import is_chief
    from keras_layerwise.drift.reference import Reference
    mesh = jax.make_mesh((len(jax.devices()),), ("model",))
    def variable(values, *axes):
        array = jax.make_array_from_callback(
            values.shape, NamedSharding(mesh, PartitionSpec(*axes)), lambda index: values[index]
        )
        return types.SimpleNamespace(value=array, shape=values.shape, dtype="float32")
    values = np.arange(24, dtype="float32").reshape(4, 6)
    weights = [variable(values, "model"), variable(values[0])]
    watched = Watched(weights)
    reference = Reference.of(watched, [values + 1, values[0] * 2])
    sums = reference.measure(watched)
    whole = reference.is_whole(watched)
    print(json.dumps({"sums": sums.tolist(), "chief": is_chief(), "whole": whole}))
"""


def results(scripts, *those):
    return [json.loads(output.splitlines()[-1]) for output in scripts.succeed(*those)]


def test_sharded_weights_have_the_drift_of_whole_ones(scripts, tmp_path):
    whole, sharded = results(scripts, (FIT, tmp_path / "whole", 1), (FIT, tmp_path / "sharded", 4))
    assert (whole["shards"], sharded["shards"]) == (1, 4)
    assert sharded["history"]["step"] == [1, 2, 3, 4]
    for name, values in whole["history"].items():
        if name != "layers":
            np.testing.assert_allclose(sharded["history"][name], values, rtol=1e-4, atol=1e-6)


def test_two_processes_add_up_their_shards_and_one_writes(scripts):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = results(scripts, *((SUMS, index, 2, port) for index in range(2)))
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = sums.Comparison([values + 1, values[0] * 2]).measure([values, values[0]])
    for found in (first, second):
        np.testing.assert_allclose(found["sums"], expected, rtol=1e-6)
        assert not found["whole"]
    assert (first["chief"], second["chief"]) == (True, False)

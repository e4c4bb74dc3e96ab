"""One of two processes that train together under `MultiWorkerMirroredStrategy`.

python multi_worker.py ADDRESSES ID OUT.npz
"""

import json
import os
import sys
import traceback

if __name__ == "__main__":
    workers = sys.argv[1].split(",")
    task = {"type": "worker", "index": int(sys.argv[2])}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})

import keras
import numpy as np
import tensorflow as tf

from keras_layerwise import LayerwiseOptimizer, Rule

X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
Y = X[:, :2] ** 2
BATCH = 8


def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    rules = {"body": Rule(multiplier=0.1, weight_decay=0.5), "head/bias": Rule(frozen=True)}
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    return model, LayerwiseOptimizer(inner, rules, model=model)


def gradients(model, x, y):
    with tf.GradientTape() as tape:
        # Summed over replicas, this is the mean over the global batch.
        loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / BATCH
    return tape.gradient(loss, model.trainable_variables)


def loop(strategy):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH).with_options(options)
    with strategy.scope():
        model, optimizer = make()
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(batch):
        def replica(batch):
            optimizer.apply(gradients(model, *batch), model.trainable_variables)

        strategy.run(replica, args=(batch,))

    for batch in strategy.experimental_distribute_dataset(data):
        step(batch)
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def fit(strategy, optimizer=None):
    """Gives what `fit` failed with, or nothing."""
    with strategy.scope():
        model, ours = make()
        model.compile(optimizer or ours, "mse")
    try:
        model.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH), verbose=0)
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    weights = {f"loop/{i}": weight for i, weight in enumerate(loop(strategy))}
    np.savez(sys.argv[3], **weights, fit=fit(strategy), bare=fit(strategy, "sgd"))

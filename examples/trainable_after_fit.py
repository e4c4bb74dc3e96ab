"""``layer.trainable = False`` after a first ``fit``, without ``compile``.

Keras has compiled the step by then. TensorFlow goes on with it: the layer trains, and nobody is
told. JAX fails, since the optimizer has variables for other weights. PyTorch has no compiled step.
"""

import keras
import numpy as np

import keras_layerwise as kl

X, Y = np.ones((8, 4), "float32"), np.zeros((8, 1), "float32")


def trained(layerwise):
    """A model of two layers that has been trained for an epoch, with either optimizer."""
    layers = [keras.layers.Dense(4, name="body"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = keras.optimizers.Adam()
    model.compile(kl.LayerwiseOptimizer(optimizer, model=model) if layerwise else optimizer, "mse")
    model.fit(X, Y, verbose=0)
    return model


def moved(model):
    """How far the kernel of the body moves in another epoch."""
    before = keras.ops.convert_to_numpy(model.get_layer("body").kernel)
    model.fit(X, Y, verbose=0)
    after = keras.ops.convert_to_numpy(model.get_layer("body").kernel)
    return float(np.abs(after - before).max())


def main():
    """Both sides, with what each must show."""
    model = trained(layerwise=False)
    model.get_layer("body").trainable = False
    if keras.backend.backend() == "tensorflow":
        distance = moved(model)
        print(f"trainable = False: the body moved by {distance:.1e}, without a warning")
        assert distance > 0
    elif keras.backend.backend() == "jax":
        try:
            moved(model)
        except ValueError as error:
            print(f"trainable = False: {str(error).splitlines()[0]}")
        else:
            raise AssertionError("JAX trained on; it raised before")

    model = trained(layerwise=True)
    model.optimizer.freeze("body")
    distance = moved(model)
    print(f"optimizer.freeze('body'): it moved by {distance:.1e}")
    assert distance == 0


if __name__ == "__main__":
    main()

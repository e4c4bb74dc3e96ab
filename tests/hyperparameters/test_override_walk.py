"""Every setting of every layer of Keras: overridden it acts, or it is refused with the reason."""

import inspect

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.backend import internals

# Layers are compared draw by draw; elsewhere the same seed does not give the same draws.
pytestmark = [
    pytest.mark.tensorflow_only,
    pytest.mark.skipif(
        tuple(map(int, keras.version().split(".")[:2])) < (3, 15),
        reason="its lists are of the layers and settings that Keras 3.15 has",
    ),
]

L = keras.layers
# What override treats by itself, with tests of its own.
SKIPPED = {"name", "trainable", "dtype", "seed", "build_config", "quantization_config"}
# Classes that wrap another framework's function, or that are no layer to build.
FOREIGN = {"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper", "Layer", "Wrapper"}
# No layer that is called by itself, and AugMix, whose mixture no seed repeats.
FOREIGN |= {"InputLayer", "Pipeline", "StackedRNNCells", "MaxNumBoundingBoxes", "AugMix"}
# Settings for the speed or the place of a computation, not for its result.
SAME_RESULT = {"unroll", "implementation", "use_cudnn", "synchronized", "flash_attention"}
# Settings that a call reads, but that change nothing in it for the inputs below.
OF_NO_CONSEQUENCE = {
    "attention_axes",
    "axis",
    "clip_limit",
    "crop_to_aspect_ratio",
    "data_format",
    "factor",
    "fill_mode",
    "fill_value",
    "interpolation",
    "mask_value",
    "mode",
    "oov_token",
    "output_mode",
    "pad_to_aspect_ratio",
    "padding",
    "salt",
    "sparse",
    "standardize",
    "tile_grid_size",
    "top_db",
    "zero_output_for_mask",
}
ARGUMENTS = {
    "activation": "relu",
    "equation": "ab,bc->ac",
    "factor": 0.3,
    "filters": 3,
    "height": 4,
    "height_factor": 0.2,
    "input_dim": 9,
    "kernel_size": 2,
    "num_bins": 5,
    "output_dim": 3,
    "output_shape": 3,
    "output_size": 4,
    "pool_size": 2,
    "rate": 0.4,
    "scale": 0.5,
    "units": 3,
    "width": 4,
    "width_factor": 0.2,
}
OWN_ARGUMENTS = {
    "ActivityRegularization": {"l1": 0.1},
    "Bidirectional": {"layer": lambda: L.LSTM(2)},
    "CategoryEncoding": {"num_tokens": 9},
    "Discretization": {"bin_boundaries": [0.2, 0.5]},
    "Dot": {"axes": 1},
    "GaussianNoise": {"stddev": 0.3},
    "GroupNormalization": {"groups": 3},
    "GroupedQueryAttention": {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1},
    "IntegerLookup": {"vocabulary": [3, 5, 7]},
    "Lambda": {"function": lambda: keras.ops.square},
    "MelSpectrogram": {"fft_length": 16, "sequence_stride": 8, "num_mel_bins": 4},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 2},
    "Normalization": {"mean": 0.5, "variance": 2.0},
    "Permute": {"dims": (2, 1)},
    "RNN": {"cell": lambda: L.GRUCell(3)},
    "RandomPosterization": {"factor": 2},
    "RepeatVector": {"n": 2},
    "Reshape": {"target_shape": (2, 3)},
    "STFTSpectrogram": {"frame_length": 8, "frame_step": 4, "fft_length": 8},
    "SpatialDropout1D": {"rate": 0.4},
    "SpectralNormalization": {"layer": lambda: L.Dense(3)},
    "StringLookup": {"vocabulary": ["a", "b"]},
    "TextVectorization": {"vocabulary": ["a", "b"], "output_sequence_length": 4},
    "TimeDistributed": {"layer": lambda: L.Dense(3)},
}
SHAPES = {"1D": (2, 8, 3), "2D": (2, 8, 8, 3), "3D": (2, 4, 4, 4, 3)}
VECTORS, STEPS, IMAGES = (4, 6), (2, 5, 3), (2, 8, 8, 3)


def inputs_of(cls):
    """What a layer of `cls` is called with: one array or several."""
    name, rng = cls.__name__, np.random.default_rng(0)

    def floats(shape):
        return (rng.random(shape, "float32") - 0.3).astype("float32")

    if name in ("StringLookup", "TextVectorization"):
        return [np.array([["a b"], ["b a"]] if name[0] == "T" else [["a", "b"], ["c", "a"]])]
    if name in ("Embedding", "ReversibleEmbedding", "IntegerLookup", "Hashing"):
        return [np.array([[1, 3, 0], [5, 7, 2]])]
    if name == "CategoryEncoding":
        return [np.array([[1, 3], [5, 7]])]
    if name == "HashedCrossing":
        return [[np.array([1, 2]), np.array([3, 4])]]
    if "Attention" in name:
        pair = [floats((2, 4, 6)), floats((2, 4, 6))]
        return pair if "Head" in name or "Query" in name else [pair]
    if issubclass(cls, L.add.__globals__["Add"].__mro__[1]) or name == "Dot":
        return [[floats(VECTORS), floats(VECTORS)]]
    if name.startswith("ConvLSTM"):
        return [floats((1, 2, *[4] * int(name[-2]), 2))]
    if name.endswith("Cell"):
        states = [floats((VECTORS[0], 3)) for _ in range(2 if "LSTM" in name else 1)]
        return [floats(VECTORS), states]
    if "Spectrogram" in name:
        return [floats((2, 64) if name[0] == "M" else (2, 64, 1))]
    if "2D" in name or issubclass(cls, L.RandomContrast.__mro__[1]) or name == "CenterCrop":
        return [np.abs(floats(IMAGES))]
    for rank, shape in SHAPES.items():
        if rank in name:
            return [floats(shape)]
    sequences = ("RNN", "LSTM", "GRU", "Bidirectional", "TimeDistributed", "Masking", "Permute")
    return [floats(STEPS if any(part in name for part in sequences) else VECTORS)]


def make(cls):
    required = [
        name
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.default is parameter.empty and name in ARGUMENTS
    ]
    given = {name: ARGUMENTS[name] for name in required} | OWN_ARGUMENTS.get(cls.__name__, {})
    if cls.__name__ == "Rescaling":
        given = {"scale": 0.5}
    return cls(**{k: v() if inspect.isfunction(v) else v for k, v in given.items()})


CHOICES = {
    "activation": ["tanh"],
    "recurrent_activation": ["hard_sigmoid"],
    "data_format": ["channels_first"],
    "padding": ["same", "valid"],
    "merge_mode": ["sum"],
    "interpolation": ["nearest", "bilinear"],
    "fill_mode": ["constant", "nearest"],
    "score_mode": ["concat"],
    "output_mode": ["one_hot", "multi_hot", "count"],
    "standardize": [None, "strip_punctuation"],
    "split": ["character"],
    "mode": ["horizontal", "real"],
    "window": ["hamming"],
    "scaling": ["spectrum"],
    "method": ["uniform"],
    "mask_value": [0.25, 3],
    "salt": [133],
    "noise_shape": [(1, 6)],
    "attention_axes": [(1,)],
    "vocabulary": [["b", "a"], [7, 5, 3]],
    "bin_boundaries": [[0.1, 0.3]],
    "mean": [5.0],
    "factor": [0.9, (0.5, 0.9)],
    "value_range": [(0, 1), (0, 255)],
    "max_value": [0.1],
    "min_freq": [100.0],
    "max_freq": [4000.0],
    "function": [keras.ops.exp],
    "equation": ["ab,cb->ac"],
    "renorm_clipping": [{"rmax": 2.0, "rmin": 0.5, "dmax": 0.1}],
    "sliding_window": [1],
    "axis": [1],
    "axes": [0],
}


def alternatives(key, value):
    """Values that differ from `value`, the likely ones first."""
    found = list(CHOICES.get(key, ()))
    if key.endswith("_regularizer"):
        found.append(keras.regularizers.L2(0.5))
    elif key.endswith("_constraint"):
        found.append(keras.constraints.MaxNorm(0.1))
    elif key.endswith("_initializer"):
        found.append("ones" if "Ones" not in str(value) else "zeros")
    elif isinstance(value, bool):
        found.append(not value)
    elif isinstance(value, int):
        found += [value + 1, value * 2]
    elif isinstance(value, float):
        found += [value / 2 + 0.2, value * 2 + 1]
    elif isinstance(value, (tuple, list)) and all(isinstance(n, (int, float)) for n in value):
        found += [type(value)(n + 1 for n in value), type(value)(n / 2 for n in value)]
    elif value is None:
        found += [0.5, 2, True, (1,)]
    return [other for other in found if other != value]


def every(layer):
    yield layer
    for inner in internals.sublayers(layer):
        yield from every(inner)


def behaviour(layer, inputs, weights):
    """Outputs, losses and state of one call in inference and one in training."""
    found = []
    for training in (False, True):
        for weight, value in zip(layer.weights, weights, strict=True):
            weight.assign(value)
        for part in every(layer):
            for generator in internals.seed_generators(part):
                generator.state.assign([7, 0])
            # A cell that is called without its RNN keeps its first mask for all calls.
            for reset in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
                if hasattr(part, reset):
                    getattr(part, reset)()
        outputs = layer(*inputs, training=training)
        outputs = keras.tree.flatten(outputs)
        masks = [getattr(t, "_keras_mask", None) for t in outputs]
        tensors = [*outputs, *(mask for mask in masks if mask is not None)]
        found += [keras.ops.convert_to_numpy(t) for t in tensors]
        found += [keras.ops.convert_to_numpy(loss) for loss in layer.losses]
        found += [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
    for weight in layer.weights:
        if weight.constraint is not None:
            found.append(keras.ops.convert_to_numpy(weight.constraint(weight)))
    return found


def alike(one, other):
    return len(one) == len(other) and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and (a.dtype.kind not in "fiub" or np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True))
        and (a.dtype.kind in "fiub" or (a == b).all())
        for a, b in zip(one, other, strict=True)
    )


CLASSES = {
    cls.__name__: cls
    for name, cls in sorted(vars(L).items())
    if inspect.isclass(cls) and issubclass(cls, L.Layer) and cls.__name__ not in FOREIGN
}


def walk(cls):
    inputs = inputs_of(cls)
    symbols = keras.tree.map_structure(
        lambda a: keras.Input(
            batch_shape=a.shape, dtype="string" if a.dtype.kind == "U" else str(a.dtype)
        ),
        inputs,
    )
    layer = make(cls)
    # A layer that gives back the symbol itself makes no graph.
    model = keras.Sequential([layer])
    if cls is not L.Equalization:
        model = keras.Model(keras.tree.flatten(symbols), layer(*symbols))
    arrays = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    weights = [np.array(w) for w in layer.get_weights()]
    before = behaviour(layer, arrays, weights)
    config = layer.get_config()
    for key in config.keys() - SKIPPED:
        yield key, attempt(model, layer, key, config, arrays, weights, before)


def attempt(model, layer, key, config, inputs, weights, before):
    refusal = None
    outcome = None
    for value in alternatives(key, config[key]):
        try:
            made = kl.override(model, {layer: {key: value}})
        except kl.RuleError as error:
            refusal = str(error)
            continue
        fresh = type(layer).from_config({**config, key: value})
        fresh(*inputs)
        after = behaviour(layer, inputs, weights)
        if not alike(after, behaviour(fresh, inputs, weights)):
            return f"{value!r}: not as a layer that was made with it"
        if made.changes and alike(after, before):
            silent = key not in OF_NO_CONSEQUENCE | SAME_RESULT
            outcome = f"{value!r}: recorded, and without effect" if silent else None
        elif made.changes:
            outcome = "acts"
        made.undo()
        if not alike(behaviour(layer, inputs, weights), before):
            return f"{value!r}: not undone"
        if outcome == "acts":
            return outcome
    if outcome is None and refusal is not None:
        return "refused" if repr(key) in refusal or f"{key}=" in refusal else refusal
    return outcome


@pytest.mark.parametrize("name", CLASSES)
def test_a_setting_acts_as_in_a_fresh_layer_or_is_refused(name):
    wrong = {
        key: outcome
        for key, outcome in walk(CLASSES[name])
        if outcome not in ("acts", "refused", None)
    }
    assert wrong == {}

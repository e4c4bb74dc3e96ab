"""Every setting of every layer of Keras: overridden it acts, or it is refused with the reason."""

import inspect

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.backend import internals

# On JAX every operation of every layer would be compiled for this: that takes minutes, and
# override itself asks nothing of the backend.
pytestmark = [
    # Of settings that Keras deprecates, and of how it calls PyTorch: here only results count.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles for minutes on JAX"),
    pytest.mark.skipif(
        tuple(map(int, keras.version().split(".")[:2])) < (3, 15),
        reason="its lists are of the layers and settings that Keras 3.15 has",
    ),
]

L = keras.layers
# What override treats by itself, with tests of its own.
SKIPPED = {"name", "trainable", "dtype", "seed", "build_config", "quantization_config"}
# Classes that wrap another framework's function, or that are no layer to build; an
# InputLayer, which has no settings that override takes, has a test of its own below.
FOREIGN = {"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper", "Layer", "Wrapper"}
FOREIGN |= {"InputLayer"}
# Settings for the speed or the place of a computation: read, and the result is the same.
SAME_RESULT = {"unroll", "implementation", "use_cudnn", "synchronized", "flash_attention"}
# Settings that are read, and that say something only where another setting is another one.
OF_NO_CONSEQUENCE = {
    ("HashedCrossing", "sparse"),  # of outputs that are one-hot
    ("IntegerLookup", "oov_token"),  # of lookups from indices to words, as StringLookup's
    ("StringLookup", "encoding"),  # of text beyond ASCII
    ("StringLookup", "oov_token"),
    ("TextVectorization", "encoding"),
    ("MaxNumBoundingBoxes", "bounding_box_format"),  # boxes are counted, whatever they say
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
    "pool_size": 3,
    "rate": 0.4,
    "scale": 0.5,
    "units": 3,
    "width": 6,
    "width_factor": 0.2,
}
OWN_ARGUMENTS = {
    "ContrastLimitedAdaptiveHistogramEqualization": {"tile_grid_size": (1, 1)},
    "Cropping2D": {"cropping": 1},
    "RandAugment": {"num_ops": 4},
    "RandomElasticTransform": {"factor": 1.0, "scale": 1.0},
    "RandomGaussianBlur": {"factor": 1.0, "sigma": 1.0},
    "RandomInvert": {"factor": 1.0},
    "RandomPerspective": {"factor": (1.0, 1.0), "scale": 1.0},
    "RandomShear": {"x_factor": 0.5},
    "Resizing": {"pad_to_aspect_ratio": True},
    "ActivityRegularization": {"l1": 0.1},
    "Bidirectional": {"layer": lambda: L.LSTM(2)},
    "CategoryEncoding": {"num_tokens": 9},
    "Discretization": {"bin_boundaries": [0.2, 0.5]},
    "Dot": {"axes": 1},
    "GaussianNoise": {"stddev": 0.3},
    "GroupNormalization": {"groups": 3},
    "GroupedQueryAttention": {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1},
    "IntegerLookup": {"vocabulary": [3, 5, 7]},
    "Lambda": {"function": lambda: keras.ops.flip, "arguments": {"axis": 1}},
    "MelSpectrogram": {"fft_length": 16, "sequence_stride": 8, "num_mel_bins": 4},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 2},
    **{f"MaxPooling{n}D": {"pool_size": 3} for n in (1, 2, 3)},
    "MaxNumBoundingBoxes": {"max_number": 3, "bounding_box_format": "xyxy"},
    "Normalization": {"mean": 0.5, "variance": 2.0},
    "Permute": {"dims": (2, 1)},
    "Pipeline": {"layers": lambda: [L.Rescaling(0.5)]},
    "RNN": {"cell": lambda: L.GRUCell(3)},
    "RandomPosterization": {"factor": 2},
    "RepeatVector": {"n": 2},
    "Reshape": {"target_shape": (2, 3)},
    "STFTSpectrogram": {"frame_length": 8, "frame_step": 4, "fft_length": 8},
    "SpatialDropout1D": {"rate": 0.4},
    "SpectralNormalization": {"layer": lambda: L.Dense(3)},
    "StackedRNNCells": {"cells": lambda: [L.SimpleRNNCell(3)]},
    "StringLookup": {"vocabulary": ["a", "b"]},
    "TextVectorization": {"vocabulary": ["a", "b"], "output_sequence_length": 4},
    "TimeDistributed": {"layer": lambda: L.Dense(3)},
}
SHAPES = {"1D": (2, 8, 3), "2D": (2, 8, 8, 3), "3D": (2, 4, 4, 4, 3)}
VECTORS, STEPS, IMAGES = (4, 6), (2, 2, 3), (4, 8, 8, 3)


def inputs_of(cls):
    """What a layer of `cls` is called with: one array or several."""
    name, rng = cls.__name__, np.random.default_rng(0)

    def floats(shape):
        return (rng.random(shape, "float32") - 0.3).astype("float32")

    if name in ("StringLookup", "TextVectorization"):
        return [np.array([["A b"], ["b a!"]] if name[0] == "T" else [["a", "b"], ["c", "a"]])]
    if name in ("Embedding", "ReversibleEmbedding", "IntegerLookup", "Hashing"):
        return [np.array([[1, 3, 0], [5, 7, 2]])]
    if name == "CategoryEncoding":
        return [np.array([[1, 1], [5, 7]])]
    if name == "Masking":
        return [np.where(np.arange(STEPS[1])[:, None] == 1, 0.25, floats(STEPS)).astype("float32")]
    if name == "HashedCrossing":
        return [[np.array([1, 2]), np.array([3, 4])]]
    if "Attention" in name:
        pair = [floats((2, 4, 6)), floats((2, 4, 6))]
        return pair if "Head" in name or "Query" in name else [pair]
    if issubclass(cls, L.add.__globals__["Add"].__mro__[1]) or name == "Dot":
        return [[floats(VECTORS), floats(VECTORS)]]
    if name.startswith("ConvLSTM"):
        return [floats((2, 2, *[3] * int(name[-2]), 2))]
    if name == "StackedRNNCells":
        return [floats(VECTORS), [floats((VECTORS[0], 3))]]
    if name == "MaxNumBoundingBoxes":
        boxes = np.abs(floats((2, 2, 4)))
        labels = np.ones((2, 2), "float32")
        return [
            {
                "images": 255 * np.abs(floats(IMAGES)),
                "bounding_boxes": {"boxes": boxes, "labels": labels},
            }
        ]
    if name.endswith("Cell"):
        states = [floats((VECTORS[0], 3)) for _ in range(2 if "LSTM" in name else 1)]
        return [floats(VECTORS), states]
    if "Spectrogram" in name:
        return [floats((2, 64) if name[0] == "M" else (2, 64, 1))]
    if name.startswith("ContrastLimited"):  # a limit counts in tiles of many pixels only
        return [255 * np.abs(floats((1, 32, 32, 3)))]
    if name == "Flatten":
        return [floats(IMAGES)]
    if "2D" in name or issubclass(cls, L.RandomContrast.__mro__[1]) or name == "CenterCrop":
        return [255 * np.abs(floats(IMAGES))]
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
    if "fill_mode" in inspect.signature(cls.__init__).parameters and cls is not L.Resizing:
        given = {"fill_mode": "constant", **given}
    return cls(**{k: v() if inspect.isfunction(v) else v for k, v in given.items()})


CHOICES = {
    "activation": ["tanh", "relu"],
    "recurrent_activation": ["hard_sigmoid"],
    "data_format": ["channels_first"],
    "padding": ["same", "valid"],
    "merge_mode": ["sum"],
    "interpolation": ["nearest", "bilinear"],
    "fill_mode": ["constant", "nearest"],
    "encoding": ["latin-1"],
    "fill_value": [99.0],
    "oov_method": ["modulo", "farmhash", "hash"],
    "oov_token": ["[other]"],
    "vocabulary_dtype": ["int32"],
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
    "bounding_box_format": ["xywh"],
    "mean": [5.0],
    "factor": [0.9, (0.5, 0.9)],
    "value_range": [(0, 1), (0, 255)],
    "max_value": [0.1],
    "min_freq": [100.0],
    "max_freq": [4000.0],
    "function": [keras.ops.cumsum],
    "arguments": [{"axis": 0}],
    "backward_layer": [L.LSTM(2, go_backwards=True)],
    "cell": [L.GRUCell(3)],
    "clip_limit": [0.01],
    "cropping": [((1, 0), (0, 0)), ((1, 0), (0, 0), (0, 0))],
    "layer": [L.LSTM(2), L.Dense(3)],
    "sigma": [0.2],
    "top_db": [1.0],
    "equation": ["ab,cb->ac"],
    "renorm_clipping": [{"rmax": 2.0, "rmin": 0.5, "dmax": 0.1}],
    "sliding_window": [1],
    "axis": [1],
    "axes": [0],
    "cells": [[L.SimpleRNNCell(3, activation="relu")], [L.SimpleRNNCell(4)]],
    "layers": [[L.Rescaling(2.0)]],
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
    masks = {}
    if isinstance(layer, (L.RNN, L.Bidirectional)):
        # One row has a state behind its first step, the other a step that is left out.
        mask = np.ones(inputs[0].shape[:2], bool)
        mask[1:, -1] = False
        masks = {"mask": keras.ops.convert_to_tensor(mask)}
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
        # The fast dropout of PyTorch and AugMix's choice of operations are drawn from these.
        keras.utils.set_random_seed(7)
        # Copies, because on PyTorch RandomBrightness changes its input.
        outputs = layer(*tensors(inputs), training=training, **masks)
        outputs = keras.tree.flatten(outputs)
        made = [getattr(t, "_keras_mask", None) for t in outputs]
        made = [*outputs, *(mask for mask in made if mask is not None)]
        found += [keras.ops.convert_to_numpy(t) for t in made]
        found += [keras.ops.convert_to_numpy(loss) for loss in layer.losses]
        found += [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
    for weight in layer.weights:
        if weight.constraint is not None:
            found.append(keras.ops.convert_to_numpy(weight.constraint(weight)))
    return found


def tensors(inputs):
    """Copies of arrays, as the backend's."""
    return keras.tree.map_structure(lambda a: keras.ops.convert_to_tensor(np.array(a)), inputs)


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
    weights = [np.array(w) for w in layer.get_weights()]
    before = behaviour(layer, inputs, weights)
    config = layer.get_config()
    for key in sorted(config.keys() - SKIPPED):
        yield key, attempt(model, layer, key, config, inputs, weights, before)
    # What one of them left behind would show in those that followed it, too.
    if not alike(behaviour(layer, inputs, weights), before):
        yield "every setting", "not undone"


def attempt(model, layer, key, config, inputs, weights, before):
    """What comes of the likely values: "acts", "refused", or what is neither."""
    outcome = "no value was tried"
    for value in alternatives(key, config[key]):
        try:
            made = kl.override(model, {layer: {key: value}})
        except kl.RuleError as error:
            if repr(key) not in str(error) and f"{key}=" not in str(error):
                return f"{value!r}: refused without its name: {error}"
            outcome = "refused"
            continue
        with made:
            fresh = type(layer).from_config({**config, key: value})
            if isinstance(inputs[0], np.ndarray) and len(inputs) == 1:
                fresh.build(inputs[0].shape)
            else:
                fresh(*tensors(inputs))
            after = behaviour(layer, inputs, weights)
            if not alike(after, behaviour(fresh, inputs, weights)):
                return f"{value!r}: not as a layer that was made with it"
        if not made.changes:
            outcome = f"{value!r}: taken and not recorded"
        elif not alike(after, before):
            return "acts"
        else:
            outcome = f"{value!r}: recorded, and without effect"
    return outcome


def is_held(name, key, outcome):
    same = outcome.endswith("recorded, and without effect")
    return outcome in ("acts", "refused") or (
        same and (key in SAME_RESULT or (name, key) in OF_NO_CONSEQUENCE)
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_setting_acts_as_in_a_fresh_layer_or_is_refused(name):
    try:
        outcomes = dict(walk(CLASSES[name]))
    except ImportError as error:
        pytest.skip(str(error))
    assert {
        key: outcome for key, outcome in outcomes.items() if not is_held(name, key, outcome)
    } == {}


@pytest.mark.parametrize("key", ["batch_shape", "dtype", "sparse", "ragged", "optional"])
def test_an_input_has_no_setting_to_override(key):
    inputs = keras.Input((3,), name="in")
    model = keras.Model(inputs, L.Dense(1)(inputs))
    with pytest.raises(kl.RuleError, match=f"has the setting '{key}'"):
        kl.override(model, {model.layers[0]: {key: True}})

import keras
import numpy as np
import pytest

from keras_layerwise.backend import torch_foreach as foreach
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.optimizer.rules import Rule

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="PyTorch's operations on lists"
)

O = keras.optimizers  # noqa: E741

MAKERS = {
    "sgd": lambda **k: O.SGD(0.01, **k),
    "momentum": lambda **k: O.SGD(0.01, momentum=0.9, **k),
    "nesterov": lambda **k: O.SGD(0.01, momentum=0.9, nesterov=True, **k),
    "adam": lambda **k: O.Adam(1e-3, **k),
    "adamw": lambda **k: O.AdamW(1e-3, **{"weight_decay": 0.1, **k}),
    "adagrad": lambda **k: O.Adagrad(0.01, **k),
    "rmsprop": lambda **k: O.RMSprop(1e-3, **k),
    "rmsprop_momentum": lambda **k: O.RMSprop(1e-3, momentum=0.9, centered=True, **k),
    "lion": lambda **k: O.Lion(1e-3, **k),
}
RULES = {
    "w0": 0.1,
    "w1": Rule(learning_rate=0.02, weight_decay=0.3),
    "w2": Rule(multiplier=O.schedules.ExponentialDecay(1.0, 5, 0.5)),
}


class Subclass(O.Adam):
    pass


def train(make, dtype="float32", rules=RULES, steps=50, **options):
    rng = np.random.default_rng(0)
    weights = [
        keras.Variable(rng.normal(size=(5, 3)) * 0.1, dtype=dtype, name=f"w{i}") for i in range(4)
    ]
    optimizer = LayerwiseOptimizer(make(), rules, **options)
    optimizer.build(weights)
    for step in range(steps):
        if step == 10 and "late" in make.__name__:
            optimizer.unfreeze("w[23]")
        grads = [rng.normal(size=(5, 3)) * 10 ** rng.uniform(-4, 0) for _ in weights]
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype) for g in grads], weights)
    return [keras.ops.convert_to_numpy(w) for w in weights]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.05, "use_ema": True}])
@pytest.mark.parametrize("name", MAKERS)
def test_equals_a_call_for_each_group(name, settings, dtype, monkeypatch):
    expected = train(lambda: MAKERS[name](**settings), dtype, fused=False)
    kind = type(MAKERS[name]())
    monkeypatch.setattr(kind, "_parallel_update_step", None)  # and is not called for any
    actual = train(lambda: MAKERS[name](**settings), dtype)
    for a, e in zip(actual, expected, strict=True):
        assert np.linalg.norm(a - e) <= 1e-6 * np.linalg.norm(e)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.05}])
@pytest.mark.parametrize("name", MAKERS)
def test_on_a_gpu_no_operation_is_a_launch_for_each_weight(name, settings, monkeypatch):
    """PyTorch launches once where what an operation takes is numbers or has the weights' shape."""
    import torch

    rules = {"w0": 0.1, "w1": Rule(multiplier=0.5, weight_decay=0.3)}
    if settings == {}:
        rules["w1"] = 0.5
    expected = train(lambda: MAKERS[name](**settings), rules=rules, fused=False)

    def checked(work):
        def call(first, *others, **options):
            for given in others:
                for value in given if isinstance(given, (list, tuple)) else ():
                    assert not isinstance(value, torch.Tensor) or value.shape == first[0].shape
            return work(first, *others, **options)

        return call

    called = [found for found in dir(torch) if found.startswith("_foreach_")]
    for found in called:
        monkeypatch.setattr(torch, found, checked(getattr(torch, found)))
    monkeypatch.setattr(foreach, "_launches", lambda values: True)
    monkeypatch.setattr(type(MAKERS[name]()), "_parallel_update_step", None)
    actual = train(lambda: MAKERS[name](**settings), rules=rules)
    for a, e in zip(actual, expected, strict=True):
        # Keras rounds 1 - λη to float32, which 50 steps repeat.
        assert np.linalg.norm(a - e) <= (3e-6 if settings else 1e-6) * np.linalg.norm(e)


@pytest.mark.parametrize("name", ["adam", "rmsprop_momentum"])
def test_weights_that_count_their_own_steps_are_updated_together(name, monkeypatch):
    def late():
        return MAKERS[name]()

    rules = {"w0": 0.1, "w2": Rule(multiplier=0.3, frozen=True), "w3": Rule(frozen=True)}
    expected = train(late, rules=rules, fused=False)
    monkeypatch.setattr(type(late()), "_parallel_update_step", None)
    for a, e in zip(train(late, rules=rules), expected, strict=True):
        assert np.linalg.norm(a - e) <= 1e-6 * np.linalg.norm(e)


@pytest.mark.parametrize("rules", [{}, {"*": 0.5}])
@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop", "lion"])
def test_one_group_takes_fewer_operations_as_well(name, rules, monkeypatch):
    expected = train(MAKERS[name], rules=rules, fused=False)
    monkeypatch.setattr(type(MAKERS[name]()), "_parallel_update_step", None)
    for a, e in zip(train(MAKERS[name], rules=rules), expected, strict=True):
        assert np.linalg.norm(a - e) <= 1e-6 * np.linalg.norm(e)


@pytest.mark.parametrize("rules", [{}, {"*": 0.5}])
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_one_group_of_sgd_is_left_to_keras(name, rules):
    for a, e in zip(
        train(MAKERS[name], rules=rules), train(MAKERS[name], rules=rules, fused=False), strict=True
    ):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("optimizer", [Subclass(), O.Adam(amsgrad=True), O.Nadam(), O.Lamb()])
def test_others_keep_their_groups(optimizer):
    assert foreach.update_of(optimizer) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("launches", [True, False])
def test_a_pull_goes_each_weights_own_share_of_the_way(launches, dtype, monkeypatch):
    monkeypatch.setattr(foreach, "_launches", lambda values: launches)
    rng = np.random.default_rng(0)
    now, ends = ([rng.normal(size=(3, i + 1)) for i in range(3)] for _ in range(2))
    weights, targets = (
        [keras.Variable(w, dtype=dtype) for w in each] for each in (now, ends)
    )  # fmt: skip
    rates = foreach.Rates(keras.ops.convert_to_tensor(0.1), [1.0, 0.5, 2.0])
    foreach.pull(weights, targets, rates, [0.5, 0.0, 3.0])
    for i, share in enumerate([0.05, 0.0, 0.6]):
        found = keras.ops.convert_to_numpy(keras.ops.cast(weights[i].value, "float32"))
        tolerance = 1e-6 if dtype == "float32" else 0.02
        np.testing.assert_allclose(
            found, now[i] + share * (ends[i] - now[i]), rtol=tolerance, atol=tolerance
        )

"""The same optimizer, compiled again: what it knows is kept, what joined gets slots."""

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule, RuleError, optimizer_of
from tests.shared import models
from tests.shared.models import numpy, tensor, variable

L = keras.layers


def network():
    keras.utils.set_random_seed(5)
    layers = [L.Dense(3, name="body", activation="tanh"), L.Dense(2, name="head")]
    return keras.Sequential([keras.Input((4,)), *layers])


def train(model, epochs=1):
    x, y = models.data()
    model.fit(x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0)


def slots(optimizer, layer):
    """The slots and first steps of a layer's weights."""
    plan = optimizer.plan
    places = [i for i, s in enumerate(plan.settings) if s.layer.split("/")[-1] == layer]
    state = optimizer.state.variables()
    held = {n: numpy(v) for n, v in state.items() if n.partition(".")[2] in map(str, places)}
    return held, [plan.settings[i].first_step for i in places]


def assert_kept(before, after):
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    for name, value in before[0].items():
        np.testing.assert_array_equal(after[0][name], value, err_msg=name)


def phases(optimizer, first, then):
    """Trains only the head, then all; the rest of the two trainings is up to the caller."""
    model = network()
    model.get_layer("body").trainable = False
    model.compile(optimizer, "mse")
    first(model)
    model.get_layer("body").trainable = True
    model.compile(optimizer, "mse")
    then(model)
    return model


def test_two_phases_are_two_parameter_groups_of_which_one_joined_later():
    """The head as under one Adam, the body as under a new one, both on the same gradients."""
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.05), {"body": 0.1}, fused=False)
    model = phases(optimizer, train, train)
    assert int(numpy(optimizer.iterations)) == 6

    other = network()
    body, head = (other.get_layer(name).trainable_weights for name in ("body", "head"))
    x, y = models.data()
    for_head, for_body = keras.optimizers.Adam(0.05), keras.optimizers.Adam(0.005)
    for_head.build(head)
    for_body.build(body)
    probe = network()
    probe.compile(keras.optimizers.SGD(1.0), "mse")
    for step in range(6):
        rows = slice(16 * (step % 3), 16 * (step % 3) + 16)
        probe.set_weights(other.get_weights())
        before = [numpy(w) for w in probe.trainable_weights]
        probe.train_on_batch(x[rows], y[rows])
        pairs = zip(before, probe.trainable_weights, strict=True)
        gradients = [tensor(b - numpy(w)) for b, w in pairs]
        for_head.apply(gradients[2:], head)
        if step >= 3:
            for_body.apply(gradients[:2], body)
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=2e-3, atol=2e-5, err_msg=a.path)


def test_slots_are_kept_and_new_ones_count_their_own_steps():
    optimizer = LayerwiseOptimizer("adam", {"body": 0.1})
    seen = {}

    def first(model):
        assert optimizer.plan.settings == [] or not slots(optimizer, "body")[0]
        train(model)
        seen["head"] = slots(optimizer, "head")
        assert not slots(optimizer, "body")[0]

    def then(model):
        assert_kept(seen["head"], slots(optimizer, "head"))
        assert slots(optimizer, "body")[1] == [3, 3]
        assert {a.layer: a.multiplier for a in optimizer.assignments} == {"body": 0.1, "head": 1.0}
        body = numpy(model.get_layer("body").kernel)
        train(model)
        assert (numpy(model.get_layer("body").kernel) != body).all()

    phases(optimizer, first, then)


def test_weights_that_stop_training_keep_their_slots_and_take_them_up_again():
    model = network()
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse")
    train(model)
    before = slots(optimizer, "body")
    model.get_layer("body").trainable = False
    model.compile(optimizer, "mse")
    kernel = numpy(model.get_layer("body").kernel)
    train(model)
    np.testing.assert_array_equal(numpy(model.get_layer("body").kernel), kernel)
    assert [a.layer for a in optimizer.assignments] == ["head", "head"]
    assert_kept(before, slots(optimizer, "body"))
    model.get_layer("body").trainable = True
    model.compile(optimizer, "mse")
    train(model)
    assert (numpy(model.get_layer("body").kernel) != kernel).all()


@pytest.mark.parametrize("rules", [{}, {"body": Rule(multiplier=0.1, frozen=True)}])
def test_lora(rules):
    model = network()
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.01), rules)
    model.compile(optimizer, "mse")
    train(model)
    head = slots(optimizer, "head")
    model.get_layer("body").enable_lora(2)
    model.compile(optimizer, "mse")
    assert_kept_by_value(head, slots(optimizer, "head"))
    frozen = bool(rules)
    added = model.get_layer("body").lora_kernel_b
    train(model)
    assert (numpy(added) == 0).all() == frozen
    names = [a.path for a in optimizer.assignments]
    assert "body/lora_kernel_a" in names
    assert "body/kernel" not in names
    expected = 0.1 if rules else 1.0
    assert optimizer.selected("body/lora_kernel_a")[0].multiplier == expected


def assert_kept_by_value(before, after):
    """Slots, whatever their places are now."""
    assert before[1] == after[1]
    for a, b in zip(before[0].values(), after[0].values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_new_head_and_the_old_one_again():
    model = network()
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.01), {"body": 0.1})
    model.compile(optimizer, "mse")
    train(model)
    body, head = slots(optimizer, "body"), slots(optimizer, "head")
    new = L.Dense(2, name="new_head")
    other = keras.Model(model.inputs, new(model.get_layer("body").output))
    other.compile(optimizer, "mse")
    assert_kept(body, slots(optimizer, "body"))
    train(other)
    assert {a.layer: a.multiplier for a in optimizer.assignments} == {"body": 0.1, "new_head": 1.0}
    model.compile(optimizer, "mse")
    assert_kept_by_value(head, slots(optimizer, "head"))
    train(model)


def test_a_rule_that_no_longer_selects_anything_warns():
    model = network()
    optimizer = LayerwiseOptimizer("sgd", {"head": 0.5})
    model.compile(optimizer, "mse")
    train(model)
    other = keras.Model(model.inputs, L.Dense(2, name="new")(model.get_layer("body").output))
    with pytest.warns(UserWarning, match="'head' selects nothing"):
        other.compile(optimizer, "mse")


def test_what_was_changed_by_hand_holds_where_the_rules_say_the_same():
    model = network()
    optimizer = LayerwiseOptimizer("sgd", {"body": Rule(multiplier=0.5, frozen=True)})
    model.compile(optimizer, "mse")
    train(model)
    optimizer.unfreeze("body")
    optimizer.set_multiplier("head", 0.25)
    model.compile(optimizer, "mse")
    train(model)
    assert [(a.multiplier, a.frozen) for a in optimizer.assignments] == [
        (0.5, False),
        (0.5, False),
        (0.25, False),
        (0.25, False),
    ]


@pytest.mark.skipif(not hasattr(L.Dense, "quantize"), reason="this Keras quantizes nothing")
def test_quantized_layers_leave_the_plan():
    model = network()
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.01), {"body": 0.1})
    model.compile(optimizer, "mse")
    train(model)
    bias = slots(optimizer, "body")[0]
    model.get_layer("body").quantize("int8")
    model.compile(optimizer, "mse")
    train(model)
    assert [a.path for a in optimizer.assignments] == ["body/bias", "head/kernel", "head/bias"]
    assert bias


def test_under_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
        model.get_layer("body").trainable = False
        model.compile(LayerwiseOptimizer("adam", {"body": 0.1}), "mse")
        train(model)
        head = slots(optimizer_of(model), "head")
        model.get_layer("body").trainable = True
        model.compile(model.optimizer, "mse")
        assert_kept(head, slots(optimizer_of(model), "head"))
        kernel = numpy(model.get_layer("body").kernel)
        train(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert (numpy(model.get_layer("body").kernel) != kernel).any()


def test_build_adopts_weights_in_a_loop_of_ones_own():
    one, two = variable([1.0], "one"), variable([1.0], "two")
    optimizer = LayerwiseOptimizer(keras.optimizers.SGD(0.1, momentum=0.5), {"two": 0.5})
    with pytest.raises(RuleError, match="'two' selects nothing"):
        optimizer.build([one])
    optimizer = LayerwiseOptimizer(keras.optimizers.SGD(0.1, momentum=0.5), {"one": 0.5})
    optimizer.build([one])
    optimizer.apply([tensor([1.0])], [one])
    optimizer.build([one, two])
    optimizer.apply([tensor([1.0]), tensor([1.0])], [one, two])
    assert [float(numpy(v)[0]) for v in (one, two)] == pytest.approx([1 - 0.05 - 0.075, 0.9])


def test_saved_between_two_phases(tmp_path):
    """A file of the first phase is loaded by the script of either phase, and goes on."""
    model = network()
    rules = {"body": 0.1}
    model.compile(LayerwiseOptimizer(keras.optimizers.Adam(0.01), rules), "mse")
    train(model)
    model.get_layer("body").trainable = False
    model.compile(model.optimizer, "mse")
    train(model)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")

    def goes_on(again):
        for name in ("body", "head"):
            assert_kept(slots(model.optimizer, name), slots(again.optimizer, name))
        again.get_layer("body").trainable = True
        again.compile(again.optimizer, "mse")
        assert_kept(slots(model.optimizer, "body"), slots(again.optimizer, "body"))
        assert again.optimizer.selected("body")[0].multiplier == 0.1
        train(again)
        return again

    loaded = goes_on(keras.models.load_model(tmp_path / "m.keras"))
    other = network()
    other.compile(LayerwiseOptimizer(keras.optimizers.Adam(0.01), rules), "mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "m.weights.h5")
    goes_on(other)
    model.get_layer("body").trainable = True
    model.compile(model.optimizer, "mse")
    train(model)
    for a, b, c in zip(model.weights, loaded.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
        np.testing.assert_array_equal(numpy(a), numpy(c))


def test_rules_hold_for_weights_that_join_after_a_reload(tmp_path):
    model = network()
    model.compile(LayerwiseOptimizer("adam", {"body": 0.1}), "mse")
    train(model)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    again.get_layer("body").enable_lora(2)
    again.compile(again.optimizer, "mse")
    train(again)
    assert again.optimizer.selected("body/lora_kernel_b")[0].multiplier == 0.1


def test_another_model_is_an_error_and_the_first_one_trains_on():
    model, twin, other = network(), network(), network()
    for each in (model, twin):
        each.compile(LayerwiseOptimizer(keras.optimizers.Adam(0.05), {"body": 0.1}), "mse")
        train(each)
    with pytest.raises(RuleError, match=r"'body/kernel'.* another model"):
        other.compile(model.optimizer, "mse")
    for each in (model, twin):
        train(each)
    for a, b in zip(model.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


@keras.saving.register_keras_serializable("tests")
class Encoder(L.Layer):
    """As those of KerasHub: its configuration does not say that a layer in it has LoRA."""

    def __init__(self, **options):
        super().__init__(**options)
        self.query = L.Dense(3, name="query")

    def build(self, shape):
        self.query.build(shape)
        self.built = True

    def call(self, inputs):
        return self.query(inputs)


def test_lora_inside_of_a_layer_is_merged_by_a_reload_and_goes_on_where_it_is_enabled_again(
    tmp_path,
):
    model = keras.Sequential([keras.Input((4,)), Encoder(name="encoder"), L.Dense(2, name="head")])
    model.get_layer("encoder").query.enable_lora(2)
    rules = {"encoder": 0.5, "*/lora_*": Rule(weight_decay=0.25)}
    model.compile(LayerwiseOptimizer(keras.optimizers.Adam(0.01), rules), "mse")
    train(model)
    model.save(tmp_path / "m.keras")
    left_out = "'encoder/query/lora_kernel_a', 'encoder/query/lora_kernel_b' are left out"
    with pytest.warns(UserWarning, match=left_out):
        again = keras.models.load_model(tmp_path / "m.keras")
    x, _ = models.data()
    np.testing.assert_allclose(
        again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    kept = [slots(m.optimizer, "head")[0].values() for m in (model, again)]  # at other places
    for before, after in zip(*kept, strict=True):
        np.testing.assert_array_equal(before, after)
    assert again.optimizer.selected("encoder")[0].multiplier == 0.5
    train(again)  # the merged kernel trains, with a slot of its own
    again.get_layer("encoder").query.enable_lora(2)
    again.compile(again.optimizer, "mse")
    train(again)
    lora = again.optimizer.selected("encoder/query/lora_kernel_b")[0]
    assert (lora.multiplier, lora.weight_decay) == (0.5, 0.25)


def test_a_checkpoint_of_another_network_is_an_error(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("asks for tf.train.Checkpoint")
    import tensorflow as tf

    model = network()
    model.compile(LayerwiseOptimizer("adam"), "mse")
    train(model)
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    other = network()
    other.get_layer("body").enable_lora(1)
    other.compile(LayerwiseOptimizer("adam"), "mse")
    other.optimizer.build(other.trainable_variables)
    with pytest.raises(RuleError, match="place"):
        tf.train.Checkpoint(optimizer=other.optimizer).restore(path)


class TestDropSlots:
    def test_frees_what_does_not_train_and_says_who_holds_any(self, capsys):
        model = network()
        optimizer = LayerwiseOptimizer("adam")
        model.compile(optimizer, "mse")
        train(model)
        count = len(optimizer.variables)
        optimizer.freeze("body")
        optimizer.summary()
        assert "Slots of weights that do not train now: 30" in capsys.readouterr().out
        optimizer.drop_slots("*")
        assert len(optimizer.variables) == count - 4
        assert slots(optimizer, "body") == ({}, [0, 0])
        optimizer.summary()
        assert "Slots" not in capsys.readouterr().out
        head = slots(optimizer, "head")
        optimizer.unfreeze("body")
        assert slots(optimizer, "body")[1] == [3, 3]
        assert_kept(head, slots(optimizer, "head"))
        train(model)

    def test_of_what_trains_is_an_error(self):
        model = network()
        model.compile(LayerwiseOptimizer("adam"), "mse")
        train(model)
        with pytest.raises(RuleError, match=r"'head/kernel', 'head/bias' are in use"):
            model.optimizer.drop_slots("head")

    def test_of_layers_that_are_not_trainable(self):
        model = network()
        optimizer = LayerwiseOptimizer("adam")
        model.compile(optimizer, "mse")
        train(model)
        model.get_layer("body").trainable = False
        model.compile(optimizer, "mse")
        optimizer.drop_slots("body")
        assert slots(optimizer, "body")[0] == {}
        train(model)

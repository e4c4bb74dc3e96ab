"""The promises of Keras and its backends that this package relies on, one test for each."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_layerwise.backend import internals, keras_optimizers
from tests.shared import models

if keras.backend.backend() == "jax":
    import jax


def built(optimizer=None):
    model = models.sequential()
    optimizer = optimizer or keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


class TestLayers:
    def test_sublayers_are_those_directly_inside(self):
        inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")], name="inner")
        outer = keras.Sequential([inner, keras.layers.Dense(1, name="b")])
        assert [layer.name for layer in internals.sublayers(outer)][-2:] == ["inner", "b"]

    def test_own_weights_are_without_the_sublayers(self):
        model = models.sequential()
        norm = model.get_layer("bn")
        assert internals.own_weights(model) == []
        assert {id(w) for w in internals.own_weights(norm)} == {id(w) for w in norm.weights}

    @pytest.mark.parametrize("trainable", [True, False])
    def test_state_is_what_never_trains_whatever_trainable_says(self, trainable):
        norm = models.sequential().get_layer("bn")
        norm.trainable = trainable
        names = [weight.name for weight in internals.own_state(norm)]
        assert names == ["moving_mean", "moving_variance"]
        assert internals.is_state(norm, norm.moving_mean)
        assert not internals.is_state(norm, norm.gamma)

    def test_the_flag_of_a_layer_is_its_own(self):
        model = models.sequential()
        body = model.get_layer("body")
        internals.set_trainable_flag(model, False)
        assert not internals.trainable_flag(model)
        assert internals.trainable_flag(body)

    def test_keras_s_own_layers_are_told_from_subclasses(self):
        class Mine(keras.layers.Dense):
            pass

        assert internals.is_of_keras(keras.layers.Dense(1))
        assert internals.is_of_keras(keras.layers.Bidirectional(keras.layers.LSTM(1)))
        assert not internals.is_of_keras(Mine(1))

    def test_generators_are_listed_and_an_unlocked_layer_takes_another(self):
        layer = keras.layers.Dropout(0.5)
        layer.build((2, 2))
        assert len(internals.seed_generators(layer)) == 1
        with internals.unlocked(layer):
            layer.another = keras.random.SeedGenerator(1)
        assert len(internals.seed_generators(layer)) == 2

    def test_what_a_layer_was_made_with_becomes_its_config(self):
        class Scaled(keras.layers.Layer):
            def __init__(self, power=1.0, **kwargs):
                super().__init__(**kwargs)
                self.power = power

        layer = Scaled(2.0)
        noted = internals.noted_arguments(layer)
        assert noted["power"] == 2.0
        noted["power"] = 3.0
        assert layer.get_config()["power"] == 3.0
        assert internals.noted_arguments(keras.layers.Activation(lambda x: x)) == {}


class TestGraphs:
    def test_levels_run_from_the_inputs_to_the_outputs(self):
        levels = internals.graph_levels(models.nested())
        names = [[node.operation.name for node in level] for level in levels]
        assert names[-1] == ["head"]
        assert set(names[1]) == {"left", "right"}
        assert {parent.operation.name for parent in levels[2][0].parent_nodes} == {"left", "right"}

    def test_a_sequential_model_has_one_and_a_subclassed_none(self):
        assert len(internals.graph_levels(models.sequential())) == 4
        assert internals.graph_levels(models.subclassed()) is None


class TestOptimizers:
    def test_the_counter_counts_updates(self):
        model, optimizer = built()
        optimizer.apply([models.tensor(np.ones(v.shape)) for v in model.trainable_variables])
        assert int(models.numpy(keras_optimizers.step_counter(optimizer))) == 1

    def test_the_state_holds_every_variable_once(self):
        _, optimizer = built()
        found = [id(v) for v in keras_optimizers.state_of(optimizer)]
        assert found == [id(v) for v in optimizer.variables]
        assert len(set(found)) == len(found)

    def test_what_it_trains_and_where_it_keeps_the_slots(self):
        model, optimizer = built()
        weights = model.trainable_variables
        assert [id(v) for v in keras_optimizers.trained_by(optimizer)] == [id(v) for v in weights]
        assert [keras_optimizers.index_of(optimizer, v) for v in weights] == list(
            range(len(weights))
        )
        keys = {keras_optimizers.key_of(optimizer, v): 7 for v in weights}
        assert len(keys) == len(weights)
        keras_optimizers.set_positions(optimizer, keys)
        assert keras_optimizers.index_of(optimizer, weights[0]) == 7

    def test_only_what_it_is_set_to_train_is_averaged(self):
        model, optimizer = built(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
        first = model.trainable_variables[0]
        averages = list(getattr(optimizer, keras_optimizers.AVERAGES))
        keras_optimizers.set_trained(optimizer, [first])
        object.__setattr__(optimizer, keras_optimizers.AVERAGES, averages[:1])
        before = [models.numpy(average) for average in averages]
        optimizer.apply(
            [models.tensor(np.ones(v.shape)) for v in model.trainable_variables],
            model.trainable_variables,
        )
        moved = [
            np.abs(models.numpy(a) - b).max() > 0 for a, b in zip(averages, before, strict=True)
        ]
        assert moved == [True] + [False] * (len(averages) - 1)

    def test_the_slots_of_the_optimizers_that_have_updates_of_ours(self):
        slots = {
            keras.optimizers.Adam: [keras_optimizers.momentums_of, keras_optimizers.velocities_of],
            keras.optimizers.RMSprop: [keras_optimizers.velocities_of],
            keras.optimizers.Adagrad: [keras_optimizers.accumulators_of],
            keras.optimizers.Lion: [keras_optimizers.momentums_of],
        }
        for kind, words in slots.items():
            model, optimizer = built(kind())
            shapes = [tuple(v.shape) for v in model.trainable_variables]
            assert [[tuple(v.shape) for v in word(optimizer)] for word in words] == [shapes] * len(
                words
            )
        _, optimizer = built(keras.optimizers.RMSprop(momentum=0.5, centered=True))
        assert len(keras_optimizers.momentums_of(optimizer)) == len(shapes)
        assert len(keras_optimizers.averages_of(optimizer)) == len(shapes)

    def test_a_tracked_variable_is_among_the_state(self):
        _, optimizer = built()
        extra = models.variable([1.0])
        keras_optimizers.track(optimizer, extra)
        assert keras_optimizers.state_of(optimizer)[-1] is extra

    def test_exclusion_from_decay_is_answered(self):
        model = models.sequential()
        optimizer = keras.optimizers.AdamW(0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.build(model.trainable_variables)
        answers = {
            "/".join(v.path.split("/")[-2:]): keras_optimizers.uses_decay(optimizer, v)
            for v in model.trainable_variables
        }
        assert answers["body/kernel"]
        assert not answers["body/bias"]

    def test_the_decay_that_an_optimizer_has_by_default(self):
        matrix, vector = models.variable([[1.0, 2.0]]), models.variable([1.0])
        decay = keras_optimizers.decay_by_default
        assert decay(keras.optimizers.SGD(0.1), matrix) is None
        assert decay(keras.optimizers.AdamW(weight_decay=0.3), vector) == 0.3

    @models.needs_muons_own_decay
    def test_the_decays_that_muon_has_by_default(self):
        matrix, vector = models.variable([[1.0, 2.0]]), models.variable([1.0])
        decay = keras_optimizers.decay_by_default
        muon = keras.optimizers.Muon(0.1, weight_decay=0.3, adam_weight_decay=0.5)
        assert [decay(muon, w) for w in (matrix, vector)] == [0.3, 0.5]

    def test_torch_updates_at_once_and_the_others_by_weight(self):
        _, optimizer = built()
        assert keras_optimizers.updates_at_once(optimizer) == (keras.backend.backend() == "torch")

    def test_without_a_strategy_there_is_none(self):
        model, optimizer = built()
        strategy = keras_optimizers.strategy_of(optimizer)
        assert strategy is None or type(strategy).__name__.startswith("_Default")
        assert not internals.has_strategy(model)


class TestModels:
    def test_compile_arguments_are_the_users(self):
        model = models.sequential()
        model.compile("sgd", "mse", loss_weights=0.5, metrics=["mae"], weighted_metrics=["mse"])
        found = internals.compile_arguments(model)
        assert found["loss_weights"] == 0.5
        assert found["metrics"] == ["mae"]
        assert found["weighted_metrics"] == ["mse"]

    def test_a_loss_from_a_function_says_what_it_passes_on(self):
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.25)
        assert internals.function_arguments(loss)["label_smoothing"] == 0.25
        assert internals.function_arguments(object()) == {}

    def test_the_better_direction_of_a_metric(self):
        assert internals.better_direction(keras.metrics.BinaryAccuracy()) == "up"
        assert internals.better_direction(keras.metrics.MeanSquaredError()) == "down"
        assert internals.better_direction(keras.metrics.Mean()) is None

    def test_a_step_that_was_built_is_built_anew(self):
        model = models.sequential()
        model.compile("sgd", "mse")
        internals.trace_again(model, "train")  # nothing is built yet
        assert model.train_function is None
        models.fit(model, epochs=1)
        before = model.train_function
        internals.trace_again(model, "train")
        assert model.train_function is not before

    @pytest.mark.skipif(keras.backend.backend() != "jax", reason="programs that JAX keeps")
    def test_a_step_that_was_built_anew_is_the_program_that_it_was(self, caplog):
        model = models.one_layer()
        model.compile("sgd", "mse")
        models.fit(model, epochs=1)
        internals.trace_again(model, "train")
        with jax.log_compiles(), caplog.at_level("WARNING"):
            models.fit(model, epochs=1)
        assert "jit(train_step)" in caplog.text

    def test_after_a_sync_the_variables_hold_what_training_did(self):
        model = models.sequential()
        model.compile("sgd", "mse")
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                internals.sync_state(self.model)
                seen.append(models.numpy(self.model.optimizer.iterations))

        models.fit(model, epochs=1, callbacks=[Look()])
        assert [int(step) for step in seen] == [1, 2, 3]


class TestSeeds:
    def test_the_seed_that_was_set(self):
        keras.utils.set_random_seed(11)
        assert internals.keras_seed() == 11
        assert internals.numpy_is_seeded()
        if keras.backend.backend() == "tensorflow":
            assert internals.tensorflow_seed() == 11
            assert internals.tensorflow_is_deterministic() is False


@pytest.mark.tensorflow_only
class TestData:
    def test_a_pipeline_is_walked_from_the_last_step_to_the_source(self):
        import tensorflow as tf

        steps = tf.data.Dataset.range(8).shuffle(4).batch(3).prefetch(1)
        names = [name for name, _ in internals.pipeline(steps)]
        assert [
            part
            for part in ("Prefetch", "Batch", "Shuffle", "Range")
            if any(part in n for n in names)
        ] == [
            "Prefetch",
            "Batch",
            "Shuffle",
            "Range",
        ]
        sizes = [
            internals.batch_size_of(step)
            for name, step in internals.pipeline(steps)
            if "Batch" in name
        ]
        assert sizes == [3]


class TestReplacing:
    def test_an_untracked_variable_is_no_longer_among_the_state(self):
        _, optimizer = built()
        extra = models.variable([1.0])
        keras_optimizers.track(optimizer, extra)
        keras_optimizers.untrack(optimizer, extra)
        assert not [v for v in keras_optimizers.state_of(optimizer) if v is extra]

    def test_what_is_replaced_is_called_and_a_view_has_the_classes_own(self):
        model, optimizer = built(keras.optimizers.SGD(0.1, weight_decay=0.5))
        calls = []

        def note(name):
            return lambda *args, **kwargs: calls.append(name)

        names = keras_optimizers.replace_updates(
            optimizer, one=note("one"), together=note("together"), decay=note("decay")
        )
        gradients = [models.tensor(np.ones(v.shape)) for v in model.trainable_variables]
        optimizer.apply(gradients)
        assert calls == ["decay", "together"]
        keras_optimizers.decay_of(optimizer)([])
        assert calls[-1] == "decay"
        weight = model.trainable_variables[0]
        before = models.numpy(weight)
        view = keras_optimizers.view_of(optimizer, names, learning_rate=0.2, weight_decay=0.25)
        keras_optimizers.decay_weights(view, [weight])
        np.testing.assert_allclose(models.numpy(weight), before * (1 - 0.2 * 0.25), rtol=1e-6)

    def test_a_view_counts_other_steps(self):
        _, optimizer = built()
        view = keras_optimizers.view_of(optimizer, frozenset(), steps=7)
        assert keras_optimizers.step_counter(view) == 7
        assert int(models.numpy(keras_optimizers.step_counter(optimizer))) == 0

    def test_only_nadam_has_a_product(self):
        assert keras_optimizers.product_per_step(built(keras.optimizers.Nadam())[1]) is not None
        assert keras_optimizers.product_per_step(built()[1]) is None

    def test_a_wrapper_expects_the_weights_that_it_is_given(self):
        model = models.sequential()
        wrapper = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        wrapper.build(model.trainable_variables)
        some = model.trainable_variables[2:]
        keras_optimizers.set_trained_of_wrapper(wrapper, some)
        assert [id(v) for v in keras_optimizers.trained_by(wrapper)] == [id(v) for v in some]
        assert keras_optimizers.index_of(wrapper, some[0]) == 0

    @pytest.mark.parametrize("name", ["compile", "compile_from_config", "fit", "train_on_batch"])
    def test_every_model_inherits_from_the_owner(self, name):
        owner = internals.owner_of(name)
        assert owner is not keras.Model
        assert name in vars(owner)

    @pytest.mark.tensorflow_only
    def test_checkpoints_find_what_is_named_and_not_what_is_forgotten(self):
        _, optimizer = built()
        extra = models.variable([1.0])
        keras_optimizers.name_for_checkpoint(optimizer, extra, "extra")
        assert optimizer._lookup_dependency("extra") is extra
        keras_optimizers.forget_for_checkpoint(optimizer, "extra")
        assert optimizer._lookup_dependency("extra") is None

    @pytest.mark.tensorflow_only
    def test_in_a_graph_and_outside_of_it(self):
        import tensorflow as tf

        seen = []

        @tf.function
        def traced():
            seen.append(internals.in_graph())
            with internals.outside_graph():
                seen.append(internals.in_graph())

        traced()
        assert seen == [True, False]
        assert not internals.in_graph()


def test_own_attributes_are_those_of_the_class_and_what_it_may_support():
    layer = keras.layers.Dropout(0.5, activity_regularizer="l2")
    found = internals.own_attributes(layer)
    assert found["rate"] == 0.5
    assert {"activity_regularizer", "supports_jit", "autocast"} <= found.keys()
    assert not {"name", "built", "_trainable", "_layers"} & found.keys()


def test_the_calls_of_a_layer_in_a_graph_hold_its_symbols():
    layer, symbol = keras.layers.Dropout(0.5), keras.Input((3,))
    layer(symbol, training=True)
    ((args, kwargs),) = internals.graph_calls(layer)
    assert args[0] is symbol
    assert kwargs["training"] is True


def test_the_schedule_of_an_optimizer():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert keras_optimizers.schedule_of(keras.optimizers.SGD(schedule)) is schedule
    assert keras_optimizers.schedule_of(keras.optimizers.SGD(0.1)) is None


class TestUpdating:
    def test_keras_updates_all_by_what_update_of_all_gives(self):
        model, optimizer = built(keras.optimizers.SGD(0.1))
        weights = model.trainable_variables
        before = [models.numpy(weight) for weight in weights]
        gradients = [models.tensor(np.ones(weight.shape)) for weight in weights]
        if keras_optimizers.updates_at_once(optimizer):
            import torch

            with torch.no_grad():
                keras_optimizers.update_group(optimizer, gradients, weights, 0.5)
        else:
            keras_optimizers.update_of_all(optimizer)(gradients, weights, 0.5)
        for weight, old in zip(weights, before, strict=True):
            np.testing.assert_allclose(models.numpy(weight), old - 0.5, rtol=1e-6)

    def test_a_pull_goes_a_part_of_the_way_to_the_target(self):
        w, target = models.variable([3.0]), models.variable([1.0])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build([w])
        keras_optimizers.pull_weights(optimizer, [w], [target], [models.tensor(0.25)])
        np.testing.assert_allclose(models.numpy(w), [2.5])
        np.testing.assert_allclose(models.numpy(target), [1.0])

    @pytest.mark.tensorflow_only
    def test_autograph_leaves_a_method_as_written(self):
        import tensorflow as tf

        @internals.as_written
        def sign(value):
            return 1 if value > 0 else -1  # AutoGraph would make this a condition of the graph

        with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
            tf.function(sign)(tf.constant(1.0))


def test_the_backend_is_named():
    assert internals.backend() == keras.config.backend()


def test_a_name_that_keras_has_no_more_is_an_error():
    class Renamed:
        old_class_attribute = 1

        def __init__(self):
            self._new = 2

    internals.require(Renamed, "old_class_attribute", "_new")
    with pytest.raises(ImportError, match=rf"Keras {keras.version()} has no Renamed\._old, which"):
        internals.require(Renamed, "_new", "_old")


@pytest.mark.parametrize("module", [internals, keras_optimizers], ids=lambda m: m.__name__)
def test_every_word_of_the_room_has_its_contract(module):
    words = set(re.findall(r"^def ([a-z]\w*)", Path(module.__file__).read_text(), re.MULTILINE))
    name = module.__name__.rpartition(".")[2]
    held = set(re.findall(rf"{name}\.(\w+)", Path(__file__).read_text()))
    assert words
    assert words - held == set()


def test_the_words_are_the_only_place_of_private_names():
    """The updates of ours use the slots by these words; PyTorch's operations are its own names."""
    other = [
        path
        for path in Path(internals.__file__).parent.glob("*.py")
        if path.stem not in ("internals", "keras_optimizers")
    ]
    found = {
        path.stem: set(re.findall(r"(?<!self)(?<!cls)\.(_[a-z]\w*)", path.read_text()))
        for path in other
    }
    found["torch_foreach"] = {n for n in found["torch_foreach"] if not n.startswith("_foreach_")}
    found["arrays"] -= {"_replace"}
    assert {stem: names for stem, names in found.items() if names} == {}

"""Gives every private name of Keras, NumPy and TensorFlow that this package needs a public word.

Each function's docstring is the promise that the rest of the package relies on;
``tests/backend/test_internals.py`` holds each on every backend and on the
oldest versions. A name that Keras has no more is an error: when this module is
imported where not every object has it, when it is read where every object does.
"""

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

# Backend.


def backend() -> str:
    """Names the backend that computes: ``"tensorflow"``, ``"jax"`` or ``"torch"``."""
    name: str = keras.backend.backend()
    return name


def require(owner: type, *names: str) -> None:
    """Checks that a class, or its methods, still know these names.

    Raises:
        ImportError: for names that are gone. What only some objects have would
            otherwise read as a value that is not there.
    """
    known = set(dir(owner))
    for cls in owner.__mro__:
        for method in filter(inspect.isfunction, vars(cls).values()):
            known.update(inspect.unwrap(method).__code__.co_names)
    if missing := [name for name in names if name not in known]:
        raise ImportError(
            f"Keras {keras.version()} has no {owner.__name__}.{', '.join(missing)}, which "
            "keras_layerwise replaces or reads. Install a version of Keras that "
            "keras_layerwise names in its requirements."
        )


require(keras.Sequential, "_functional")
require(keras.Function, "_nodes_by_depth")
require(keras.losses.MeanSquaredError, "_fn_kwargs")
require(keras.metrics.BinaryAccuracy, "_direction")
_OF_MODELS = {"jax": ["jax_state_sync"], "tensorflow": ["distribute_strategy"]}
require(keras.Model, *_OF_MODELS.get(backend(), ()))

# Layers.


def sublayers(layer: Any) -> tuple[Any, ...]:
    """Lists the layers directly inside `layer`, in its own order."""
    return tuple(layer._layers)


def own_weights(layer: Any) -> list[Any]:
    """Lists the weights that `layer` itself made, without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_state(layer: Any) -> list[Any]:
    """Lists the weights that `layer` itself made and that are never trained.

    Moving averages are among them. Setting ``layer.trainable`` moves no weight
    between this list and the trainable ones.
    """
    return list(layer._non_trainable_variables)


def is_state(layer: Any, weight: Any) -> bool:
    """Tells whether `weight` belongs to `layer` itself and is never trained."""
    return any(weight is own for own in layer._non_trainable_variables)


def trainable_flag(layer: Any) -> bool:
    """Reads the flag of `layer` alone, without asking what is inside or around it."""
    return bool(layer._trainable)


def set_trainable_flag(layer: Any, value: bool) -> None:
    """Sets the flag of `layer` alone, and of nothing inside it."""
    layer._trainable = value


def is_of_keras(layer: Any) -> bool:
    """Tells whether the class of `layer` is one of Keras's own, and not a subclass of it."""
    return type(layer).__module__.startswith(("keras.src.layers.", "keras.layers."))


def seed_generators(layer: Any) -> list[Any]:
    """Gives the list of random generators that `layer` itself keeps; changes to it hold."""
    found: list[Any] = layer._seed_generators
    return found


def noted_arguments(layer: Any) -> dict[str, Any]:
    """Gives what `layer` was made with, from which Keras makes the config of a class without one.

    Changes to it hold. Empty where the arguments are not all plain values.
    """
    noted = layer._auto_config
    return {} if noted is None else noted.config


@contextlib.contextmanager
def unlocked(layer: Any) -> Iterator[None]:
    """Lets attributes with state be added to a built `layer`."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def own_attributes(layer: Any) -> dict[str, Any]:
    """Gives the attributes of `layer` that its class sets, without what every layer has.

    Of these only what a class may set differently is among them: the
    activity regularizer, and whether masks, jit and autocast are supported.
    """
    every, shared = _layer_attributes()
    return {
        name: value
        for name, value in vars(layer).items()
        if (name not in every or name in shared) and not name.startswith("_self_")
    }


@functools.cache
def _layer_attributes() -> tuple[frozenset[str], frozenset[str]]:
    shared = {
        "_input_spec",
        "_supports_masking",
        "activity_regularizer",
        "autocast",
        "supports_jit",
    }
    every = vars(keras.layers.Layer(name="any"))
    if not shared <= every.keys():
        raise ImportError(f"Keras {keras.version()} has layers without {shared - every.keys()}.")
    return frozenset(every), frozenset(shared)


# Graphs.


def graph_calls(layer: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Lists the arguments of each call of `layer` in a graph, with ``KerasTensor`` in them."""
    nodes = layer._inbound_nodes
    return [(tuple(node.arguments.args), dict(node.arguments.kwargs)) for node in nodes]


def graph_levels(model: Any) -> list[list[Any]] | None:
    """Lists the nodes of a model's own graph level by level, from the inputs on.

    Each node has ``operation`` and ``parent_nodes``. None where the model has
    no graph, as a subclassed one.
    """
    function = getattr(model, "_functional", None) or model
    if not hasattr(function, "_nodes_by_depth"):
        return None
    by_depth = function._nodes_by_depth
    return [list(by_depth[depth]) for depth in sorted(by_depth, reverse=True)]


# Models.


def compile_arguments(model: Any) -> dict[str, Any]:
    """Gives what ``compile`` was given for losses and metrics, as the user wrote it.

    Keys: ``loss_weights``, ``metrics``, ``weighted_metrics``; a value is None
    where nothing was given.
    """
    loss, metrics = model._compile_loss, model._compile_metrics
    return {
        "loss_weights": None if loss is None else loss._user_loss_weights,
        "metrics": None if metrics is None else metrics._user_metrics,
        "weighted_metrics": None if metrics is None else metrics._user_weighted_metrics,
    }


def function_arguments(loss: Any) -> dict[str, Any]:
    """Gives the arguments that a loss made from a function passes to it; empty for others."""
    found: dict[str, Any] = getattr(loss, "_fn_kwargs", {})
    return dict(found)


def better_direction(metric: Any) -> str | None:
    """Says whether a metric is better ``"up"`` or ``"down"``; None where Keras does not know."""
    direction: str | None = getattr(metric, "_direction", None)
    return direction


def sync_state(model: Any) -> None:
    """Brings the state that training holds on JAX back into the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def trace_again(model: Any, kind: str) -> None:
    """Recompiles the ``"train"``, ``"test"`` or ``"predict"`` step that Keras has built.

    Does nothing where there is none yet.
    """
    if getattr(model, f"{kind}_function", None) is None:
        return
    make = getattr(model, f"make_{kind}_function")
    if backend() != "jax":
        make(force=True)
        return
    # JAX takes a method for one that it has traced before where the two compare equal, and
    # some reference keeps the old one alive; a new function equals no other.
    name = f"{kind}_step"
    own, step = vars(model).get(name), getattr(model, name)

    def fresh(state: Any, data: Any) -> Any:
        return step(state, data)

    fresh.__name__ = name  # by which XLA knows a program that it has compiled before
    object.__setattr__(model, name, fresh)
    try:
        make(force=True)
    finally:
        object.__delattr__(model, name)
        if own is not None:
            object.__setattr__(model, name, own)


def has_strategy(model: Any) -> bool:
    """Tells whether `model` was made under a TensorFlow strategy of the user's choice."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or "tensorflow" not in sys.modules:
        return False
    return type(strategy).__name__ != "_DefaultDistributionStrategy"


def owner_of(name: str) -> type:
    """Gives the class whose `name` every ``keras.Model`` inherits, to be wrapped there.

    Keras compares a model's ``compile`` with that of the class which defines
    it, and loads no compiled model where they differ.
    """
    found: type = next(base for base in keras.Model.__mro__[1:] if name in vars(base))
    return found


# Data.


def pipeline(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Goes through the steps of a ``tf.data`` pipeline, from the last back to the source."""
    while dataset is not None:
        yield type(dataset).__name__, dataset
        dataset = getattr(dataset, "_input_dataset", None)


def batch_size_of(step: Any) -> int | None:
    """Gives the size of the batches that a step of a pipeline makes, None for other steps."""
    size = getattr(step, "_batch_size", None)
    return None if size is None else int(keras.ops.convert_to_numpy(size))


# Seeds. Each gives None where nobody has set one.


def keras_seed() -> int | None:
    """Gives the seed that ``keras.utils.set_random_seed`` set."""
    seed = importlib.import_module("keras.src.utils.rng_utils").get_random_seed()
    return None if seed is None else int(seed)


def numpy_is_seeded() -> bool:
    """Tells whether NumPy's global generator was seeded; which seed it was is not kept."""
    return np.random.mtrand._rand._bit_generator.seed_seq is None


def tensorflow_seed() -> int | None:
    """Gives the seed that ``tf.random.set_seed`` set."""
    context = importlib.import_module("tensorflow.python.eager.context")
    seed = context.global_seed()
    return None if seed is None else int(seed)


def tensorflow_is_deterministic() -> bool:
    """Tells whether ``tf.config.experimental.enable_op_determinism`` was called."""
    config = importlib.import_module("tensorflow.python.framework.config")
    return bool(config.is_op_determinism_enabled())


# TensorFlow's graphs.


def as_written(method: Any) -> Any:
    """Keeps AutoGraph from rewriting `method` in a user's ``tf.function``, as it spares Keras."""
    if backend() != "tensorflow":
        return method
    return importlib.import_module("tensorflow").autograph.experimental.do_not_convert(method)


def in_graph() -> bool:
    """Tells whether TensorFlow is tracing a function now."""
    return backend() == "tensorflow" and not (
        importlib.import_module("tensorflow").executing_eagerly()
    )


def outside_graph() -> contextlib.AbstractContextManager[Any]:
    """Lets variables be made and set at once although TensorFlow traces a function."""
    if not in_graph():
        return contextlib.nullcontext()
    scope: contextlib.AbstractContextManager[Any] = importlib.import_module(
        "tensorflow"
    ).init_scope()
    return scope

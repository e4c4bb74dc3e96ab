"""Twins of a layer: what has to change on it so that it is as if made with another setting.

Keras itself makes two layers from the same config, one with the old and one
with the new setting, under the same random numbers. What differs between the
two is what has to change. What cannot be changed on a layer that is in use
(its weights, what they start from, the layers in it), or would be changed and
never read again, is a `RuleError`.
"""

import contextlib
import functools
import inspect
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals
from keras_layerwise.errors import RuleError

ABSENT = object()
_ANEW = "Make the model anew with it, and copy what fits: new_layer.set_weights(...)."
# Sizes to try where a graph or a build leaves them open.
_SIZES = (8, 32)


class Twins:
    """A layer as it is and as it would be with another setting.

    Attributes:
        old, new: layers of the class of `layer`, built where it is.
    """

    def __init__(
        self, path: str, layer: Any, config: Mapping[str, Any], attribute: str, value: Any
    ) -> None:
        self.layer = layer
        self._attribute = attribute
        self._what = f"{attribute!r} of {path!r}"
        state = random.getstate()
        try:
            self.old = _make(layer, config)
        except Exception as error:
            raise RuleError(
                f"{self._what} cannot change: {type(layer).__name__} cannot be made from its "
                f"config ({_reason(error)}), so that nothing tells what would change. Give the "
                "class a get_config and from_config that agree."
            ) from error
        # Keras draws the seeds of initializers and generators from Python's random numbers.
        random.setstate(state)
        try:
            self.new = _make(layer, {**config, attribute: value})
        except Exception as error:  # what the layer's constructor says about the value
            raise RuleError(
                f"{path!r} does not take {attribute}={value!r}: {_reason(error)}"
            ) from error
        self._check_weights(config, value)

    def _check_weights(self, config: Mapping[str, Any], value: Any) -> None:
        old, new = self.old.weights, self.new.weights
        if [_form(weight) for weight in old] != [_form(weight) for weight in new]:
            raise RuleError(
                f"{self._what} cannot change from {config.get(self._attribute)!r} to {value!r} "
                f"after building: its weights or its output would have another shape. {_ANEW}"
            )
        moved = [i for i, pair in enumerate(zip(old, new, strict=True)) if not _equal(*pair)]
        if not moved:
            return
        state = random.getstate()
        again = _make(self.layer, config).weights
        random.setstate(state)
        # Equal in two layers of one config, the weight was computed from it and not drawn.
        fixed = [old[i].name for i in moved if _equal(old[i], again[i])]
        if fixed:
            raise RuleError(
                f"{self._what} cannot change after building: it ran when {fixed[0]!r} was made. "
                f"Assign the weight: layer.{fixed[0]}.assign(...); or make the model anew with it."
            )

    def differences(self) -> list["Difference"]:
        """Tells what has to change on the layer, on its weights and on the layers in it.

        Raises:
            RuleError: where other layers or other objects would be in it.
        """
        try:
            return list(_compare(self.old, self.new, self.layer, self._attribute))
        except _OtherLayersError:
            raise RuleError(
                f"{self._what} cannot change after building: other layers or state would be in "
                f"it. {_ANEW}"
            ) from None

    def check_effect(self, found: list["Difference"]) -> None:
        """Calls both twins, and sees that the new one reads what differs.

        Raises:
            RuleError: where the output has another shape or type, or nothing
                that is computed after building reads what differs.
        """
        # Building reads what a layer is built with; a weight's penalty holds from now on.
        if not self.layer.built or any(isinstance(d.owner, keras.Variable) for d in found):
            return
        generators = [d.value for d in found if isinstance(d.value, keras.random.SeedGenerator)]
        states = [keras.ops.convert_to_numpy(generator.state) for generator in generators]
        try:
            self._check_calls(found)
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.state.assign(state)

    def _check_calls(self, found: list["Difference"]) -> None:
        read: set[tuple[int, str]] = set()
        called = False
        for args, kwargs in _calls(self.layer):
            before = None
            with contextlib.suppress(Exception):  # not the arguments that this layer takes
                before = _outputs(self.old, args, kwargs)
            if before is None:
                continue
            try:
                with _reading(self.new, read):
                    after = _outputs(self.new, args, kwargs)
            except Exception as error:
                raise RuleError(
                    f"{self._what} cannot change after building: with it the layer fails: "
                    f"{_reason(error)} {_ANEW}"
                ) from error
            if before != after:
                raise RuleError(
                    f"{self._what} cannot change after building: its weights or its output would "
                    f"have another shape. {_ANEW}"
                )
            called = True
            break
        acting = [d for d in found if (id(d.new_owner), d.name) in read and d.name != "_input_spec"]
        if called and not acting:
            raise RuleError(
                f"{self._what} cannot change after building: nothing that the layer computes "
                f"reads it any more. {_ANEW}"
            )


class _OtherLayersError(Exception):
    """The twins hold layers of other classes."""


class Difference:
    """One attribute that differs between two twins.

    Attributes:
        owner: the live layer or weight that has to change.
        new_owner: its counterpart in the new twin.
        name: of the attribute.
        value: what it has to become; `ABSENT` where it has to go.
    """

    def __init__(self, owner: Any, new_owner: Any, name: str, value: Any) -> None:
        self.owner, self.new_owner, self.name = owner, new_owner, name
        if inspect.ismethod(value) and value.__self__ is new_owner:
            value = types.MethodType(value.__func__, owner)
        self.value = value


def _make(layer: Any, config: Mapping[str, Any]) -> Any:
    twin = type(layer).from_config(dict(config))
    if layer.built and not twin.built:
        twin.build_from_config(layer.get_build_config())
    return twin


def _reason(error: Exception) -> str:
    _, marker, text = str(error).rpartition("Exception encountered: ")
    return text if marker else f"{type(error).__name__}: {text}"


def _form(weight: Any) -> tuple[Any, ...]:
    return weight.name, tuple(weight.shape), keras.backend.standardize_dtype(weight.dtype)


def _equal(one: Any, other: Any) -> bool:
    one, other = (keras.ops.convert_to_numpy(weight) for weight in (one, other))
    return bool(np.array_equal(one, other))


# What differs.


def _compare(old: Any, new: Any, layer: Any, attribute: str) -> Iterator[Difference]:
    own, changed = internals.own_attributes(old), internals.own_attributes(new)
    for name in {**own, **changed}:
        one, other = own.get(name, ABSENT), changed.get(name, ABSENT)
        if _is_structure(one) != _is_structure(other):
            raise _OtherLayersError
        if isinstance(one, keras.random.SeedGenerator) or _is_structure(one):
            continue
        if isinstance(other, keras.random.SeedGenerator):
            if name not in vars(layer):
                yield Difference(layer, new, name, other)
        elif not same(one, other, asked=name.strip("_") == attribute):
            yield Difference(layer, new, name, other)
    yield from _weight_differences(old, new, layer, attribute)
    parts = [internals.sublayers(part) for part in (old, new, layer)]
    if len({tuple(map(type, layers)) for layers in parts}) > 1:
        raise _OtherLayersError
    for before, after, part in zip(*parts, strict=True):
        yield from _compare(before, after, part, attribute)


def _weight_differences(old: Any, new: Any, layer: Any, attribute: str) -> Iterator[Difference]:
    stem, _, asked = attribute.rpartition("_")
    parts = (internals.own_weights(part) for part in (old, new, layer))
    for before, after, weight in zip(*parts, strict=True):
        for name in ("regularizer", "constraint"):
            value = getattr(after, name)
            # The layer's attribute may have been assigned before, without effect on the weight.
            late = name == asked and weight.name.startswith(stem)
            if not same(getattr(weight if late else before, name), value, asked=True):
                yield Difference(weight, after, name, value)


def _is_structure(value: Any) -> bool:
    """Tells whether it is a layer or weight, or holds such: these are compared by position."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        return any(_is_structure(member) for member in value)
    return isinstance(value, (keras.layers.Layer, keras.Variable, keras.Metric))


def same(one: Any, other: Any, *, asked: bool = False, depth: int = 0) -> bool:
    """Tells whether two attributes do the same; `asked` for the one that is to change."""
    if one is other or depth > 6:
        return True
    if isinstance(one, keras.layers.Layer) and isinstance(other, keras.layers.Layer):
        return True
    if type(one) is not type(other) or one is ABSENT:
        return False
    inner = functools.partial(same, depth=depth + 1)
    if isinstance(one, (str, int, float, bool, bytes)):
        return bool(one == other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(inner(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(inner(*pair) for pair in zip(one, other, strict=True))
    if inspect.isfunction(one):
        # Each layer has functions of its own around the same code.
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (one, other)]
        return not asked and one.__code__ is other.__code__ and inner(*cells)
    if inspect.ismethod(one):
        return bool(one.__func__ is other.__func__)
    if isinstance(one, (np.ndarray, np.generic)) or keras.ops.is_tensor(one):
        return _same_array(one, other)
    with contextlib.suppress(Exception):
        if hasattr(one, "get_config"):
            return inner(one.get_config(), other.get_config())
    if "__eq__" in {name for cls in type(one).__mro__[:-1] for name in vars(cls)}:
        return bool(one == other)
    return not hasattr(one, "__dict__") or inner(vars(one), vars(other))


def _same_array(one: Any, other: Any) -> bool:
    try:
        one, other = (keras.ops.convert_to_numpy(array) for array in (one, other))
    except Exception:  # a handle of a table, which holds no values that could be compared
        return True
    return bool(np.array_equal(one, other))


# What is read.


@contextlib.contextmanager
def _reading(twin: Any, read: set[tuple[int, str]]) -> Iterator[None]:
    """Notes which attributes of `twin` and of the layers in it are read."""

    def watched(cls: type) -> type:
        def read_attribute(self: Any, name: str) -> Any:
            read.add((id(self), name))
            return object.__getattribute__(self, name)

        return types.new_class(
            cls.__name__,
            (cls,),
            {},
            lambda ns: ns.update(__getattribute__=read_attribute, __module__=cls.__module__),
        )

    layers: dict[int, Any] = {}

    def visit(layer: Any) -> None:
        if id(layer) not in layers:
            layers[id(layer)] = layer
            for inner in internals.sublayers(layer):
                visit(inner)

    visit(twin)
    classes = [(layer, type(layer)) for layer in layers.values()]
    for layer, cls in classes:
        object.__setattr__(layer, "__class__", watched(cls))
    try:
        yield
    finally:
        for layer, cls in classes:
            object.__setattr__(layer, "__class__", cls)


def _outputs(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Shapes and types of what `layer` gives, in inference and in training."""
    layer.trainable = True
    found = []
    for training in (False, True):
        outputs = layer(*args, training=training, **kwargs)
        described = keras.tree.map_structure(
            lambda t: (tuple(t.shape), str(t.dtype)) if hasattr(t, "shape") else t, outputs
        )
        found.append(described)
    return found


def _calls(layer: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments that `layer` was called with, in small arrays; guesses where none is known."""
    for size in _SIZES:
        for args, kwargs in internals.graph_calls(layer)[:1]:
            fill = functools.partial(_array, size=size)
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
            yield keras.tree.map_structure(fill, (args, kwargs))
    shapes = (layer.get_build_config() or {}) if layer.built else {}
    if "shapes_dict" in shapes:
        named = {k.removesuffix("_shape"): v for k, v in shapes["shapes_dict"].items()}
        for size in _SIZES:
            yield (), {name: _of_shape(shape, size) for name, shape in named.items()}
    elif shapes.get("input_shape"):
        for size in _SIZES:
            yield (_of_shape(shapes["input_shape"], size),), {}
    for rank in (2, 3, 4, 5):
        yield (np.ones((1, *(12,) * (rank - 2), 3), "float32"),), {}


def _array(value: Any, size: int) -> Any:
    if not isinstance(value, keras.KerasTensor):
        return value
    shape = [1 if i == 0 and n is None else n or size for i, n in enumerate(value.shape)]
    dtype = keras.backend.standardize_dtype(value.dtype)
    return np.full(shape, "a") if dtype == "string" else np.ones(shape, dtype)


def _of_shape(shape: Any, size: int) -> Any:
    if shape and isinstance(shape[0], (list, tuple)):
        return [_of_shape(inner, size) for inner in shape]
    return np.ones([1 if i == 0 and n is None else n or size for i, n in enumerate(shape)], "f4")

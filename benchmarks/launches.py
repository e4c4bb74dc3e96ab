"""How many operations an update or a step launches, counted and not timed.

On TensorFlow they are the operations of the traced graph, on JAX the
instructions of the program that XLA compiled, on PyTorch what its profiler
saw: kernels on a GPU, calls of operations on a CPU. The count is exact, so a test can
hold it.
"""

import collections
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

FREE = frozenset(
    {
        *("Const", "Placeholder", "Identity", "NoOp"),
        *("parameter", "constant", "tuple", "get-tuple-element"),
        # Of PyTorch's those that allocate, look at what is there, or hand out a number.
        *("aten::empty", "aten::lift_fresh", "aten::detach", "aten::detach_", "aten::unbind"),
        *("aten::view", "aten::alias", "aten::expand", "aten::select", "aten::item"),
    }
)
# "name = shape kind(operands)", where the shape of several results stands in parentheses.
INSTRUCTION = re.compile(r" = (?:\(.*?\)|\S+) ([\w-]+)\(")

Counts = collections.Counter[str]


def of_update(optimizer: Any, variables: Sequence[Any], constant: str | None = None) -> Counts:
    """Counts the operations of one update, by kind.

    Args:
        optimizer: not yet built.
        variables: what it updates.
        constant: name of a variable of the optimizer that is a constant of the compiled
            program, on JAX.
    """
    optimizer.build(variables)
    gradients = [keras.ops.ones(variable.shape) for variable in variables]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced = tf.function(lambda *given: optimizer.apply(list(given), variables))
        return of_graph(traced.get_concrete_function(*gradients).graph)
    if backend == "jax":
        import jax

        known = {v.path: v.value for v in optimizer.variables if v.name == constant}

        def update(state: Any, gradients: Any, values: Any) -> Any:
            state = [known.get(v.path, s) for v, s in zip(optimizer.variables, state, strict=True)]
            return optimizer.stateless_apply(state, gradients, values)

        values = [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
        return of_program(jax.jit(update).lower(*values).compile().as_text())
    optimizer.apply(gradients, variables)
    return of_call(lambda: optimizer.apply(gradients, variables))


def of_step(model: Any, x: Any, y: Any) -> Counts:
    """Counts the operations of one training step of a compiled model, by kind."""
    model._symbolic_build(data_batch=(x, y))
    model.make_train_function()
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced = tf.function(model.train_step)
        return of_graph(traced.get_concrete_function((x, y)).graph)
    if backend == "jax":
        import jax

        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        state = model._get_jax_state(**{f"{kind}_variables": True for kind in kinds})
        program = jax.jit(model.train_step, donate_argnums=0).lower(state, (x, y)).compile()
        return of_program(program.as_text())
    model.train()
    model.train_function([(x, y)])
    return of_call(lambda: model.train_function([(x, y)]))


def of_graph(graph: Any) -> Counts:
    """Counts the operations of a graph of TensorFlow."""
    return _without_free(operation.type for operation in graph.get_operations())


def of_program(text: str) -> Counts:
    """Counts what a compiled program launches: the instructions of its entry."""
    return _without_free(INSTRUCTION.findall(text[text.index("ENTRY") :]))


def of_call(work: Callable[[], Any]) -> Counts:
    """Counts what PyTorch's profiler sees of a call."""
    import torch

    kinds = torch.profiler.ProfilerActivity
    on_gpu = torch.cuda.is_available()
    activities = [kinds.CPU, kinds.CUDA] if on_gpu else [kinds.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    if on_gpu:
        on_device = torch.autograd.DeviceType.CUDA
        kept = [event for event in profile.events() if event.device_type == on_device]
    else:  # what an operation calls in turn is its own affair
        kept = [event for event in profile.events() if event.cpu_parent is None]
        # To what it is already: nothing is called in turn.
        kept = [event for event in kept if event.name != "aten::to" or event.cpu_children]
    return _without_free(event.name for event in kept)


def _without_free(kinds: Any) -> Counts:
    return collections.Counter(kind for kind in kinds if kind not in FREE)

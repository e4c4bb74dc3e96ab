"""Layers that join training as epochs pass."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_layerwise.backend.internals import own_state
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.model.outline import outline
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer, layerwise_optimizers


class GradualUnfreeze(keras.callbacks.Callback):
    """Unfreezes layers at the epochs that it is given.

    The layers are frozen by rules of a `LayerwiseOptimizer`; each keeps the
    multiplier of its rule when it is unfrozen. At every epoch everything that
    is due is unfrozen, so a run that is resumed later comes to the same state.

    Args:
        epochs: ``{epoch: selector}``; epochs count from 0 as in ``fit``. A
            list of selectors unfreezes all of them.

    Raises:
        TypeError: for an epoch that is no integer or a selector that is none.
        ValueError: for a negative epoch.
        RuleError: at the start of training, where the model is not trained by
            a `LayerwiseOptimizer`, a selector picks nothing, or what it picks
            is not frozen although the run is new.

    Example:

    >>> import keras
    >>> from keras_layerwise import LayerwiseOptimizer, Rule
    >>> body, head = keras.layers.Dense(8, name="body"), keras.layers.Dense(2, name="head")
    >>> model = keras.Sequential([keras.Input((4,)), body, head])
    >>> frozen_body = {"body": Rule(multiplier=0.1, frozen=True)}
    >>> model.compile(LayerwiseOptimizer("adam", frozen_body, model=model), loss="mse")
    >>> x, y = keras.ops.ones((8, 4)), keras.ops.ones((8, 2))
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[GradualUnfreeze({2: "body"})])
    >>> model.optimizer.assignments[0].frozen
    False
    """

    def __init__(self, epochs: Mapping[int, Any]) -> None:
        super().__init__()
        if not isinstance(epochs, Mapping):
            raise TypeError(f"`epochs` is a dict {{epoch: selector}}; received {epochs!r}.")
        for epoch, selector in epochs.items():
            if isinstance(epoch, bool) or not isinstance(epoch, int):
                raise TypeError(f"An epoch is an integer; received {epoch!r}.")
            if epoch < 0:
                raise ValueError(f"Epochs count from 0; received {epoch}.")
            selectors.check_type(selector)
        self.epochs = dict(sorted(epochs.items()))

    @classmethod
    def by_block(
        cls,
        model: Any,
        every: int = 1,
        block: str | re.Pattern[str] | None = None,
        *,
        stem: Any = None,
        head: Any = None,
    ) -> "GradualUnfreeze":
        """Makes the callback that unfreezes a model from the head down (ULMFiT's schedule).

        The head trains from the start. After `every` epochs the last block
        joins it, with the neck; after as many more the block before, and the
        stem at the end.

        Args:
            model: a model that is built; see `outline` for its parts.
            every: epochs between two blocks, an integer above 0.
            block: see `outline`.
            stem: see `outline`.
            head: see `outline`.

        Raises:
            TypeError: for an `every` that is no integer.
            ValueError: for an `every` below 1.
            RuleError: where the parts of `model` cannot be told.

        Example:

        >>> import keras
        >>> from keras_layerwise import LayerwiseOptimizer, Rule, outline
        >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(3)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> body = {outline(model).blocks: Rule(frozen=True)}
        >>> model.compile(LayerwiseOptimizer("adam", body, model=model), loss="mse")
        >>> GradualUnfreeze.by_block(model, every=2).epochs
        {2: (<block 1 (dense_1): 2 weights>,), 4: (<block 0 (dense_0): 2 weights>,)}
        """
        if isinstance(every, bool) or not isinstance(every, int):
            raise TypeError(f"`every` is an integer; received {every!r}.")
        if every < 1:
            raise ValueError(f"`every` is at least 1 epoch; received {every}.")
        parts = outline(model, block, stem=stem, head=head)
        steps: dict[int, list[Any]] = {}
        for part in parts:
            if part is not parts.head and any(map(_can_train(model), part.weights)):
                steps.setdefault(part.depth, []).append(part)
        return cls(
            {every * (i + 1): tuple(steps[depth]) for i, depth in enumerate(sorted(steps)[::-1])}
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the selectors against the model."""
        optimizers = layerwise_optimizers(self.model.optimizer)
        if not optimizers:
            raise RuleError(
                "GradualUnfreeze needs a LayerwiseOptimizer; the model is trained by "
                f"{type(self.model.optimizer).__name__}. Wrap it: LayerwiseOptimizer(optimizer, "
                "{'layer': Rule(frozen=True)})."
            )
        for optimizer in optimizers:
            optimizer.attach(self.model)
        if not all(optimizer.built for optimizer in optimizers):
            if not self.model.built:
                return
            self.model.optimizer.build(self.model.trainable_variables)
        is_new = int(keras.ops.convert_to_numpy(optimizers[0].iterations)) == 0
        for epoch, selector in self.epochs.items():
            found = [a for owner in self._owners(selector) for a in owner.selected(selector)]
            if is_new and not any(a.frozen for a in found):
                raise RuleError(
                    f"GradualUnfreeze is to unfreeze {selectors.label(selector)!r} at epoch "
                    f"{epoch}, but nothing of it is frozen. Freeze it by a rule: "
                    "{selector: Rule(frozen=True)}."
                )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Unfreezes what is due."""
        for due, selector in self.epochs.items():
            if due > epoch:
                return
            for optimizer in self._owners(selector):
                optimizer.unfreeze(selector)

    def planned_changes(self, epoch: float) -> list[Any]:
        """Selectors of what is unfrozen up to `epoch`, so that it counts as planned."""
        return [selector for due, selector in self.epochs.items() if due <= epoch]

    def _owners(self, selector: Any) -> list[LayerwiseOptimizer]:
        """Finds the optimizers, of several in a ``MultiOptimizer``, of what `selector` picks."""
        owners = []
        problem = None
        for optimizer in layerwise_optimizers(self.model.optimizer):
            try:
                optimizer.selected(selector)
                owners.append(optimizer)
            except RuleError as error:
                problem = error
        if problem is not None and not owners:
            raise problem
        return owners


def _can_train(model: Any) -> Callable[[Any], bool]:
    """Says of a weight whether it can ever train, as moving averages can not."""
    state = {id(w) for place in structure.places(model) for w in own_state(place.layer)}
    return lambda weight: id(weight) not in state

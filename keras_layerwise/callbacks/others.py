"""What the other callbacks of a ``fit`` say about it, by what they have and not by their class."""

from collections.abc import Iterator
from typing import Any

from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.names import Names
from keras_layerwise.model.selectors import select
from keras_layerwise.storage.values import plain


def planned_keys(model: Any, epoch: float) -> set[str]:
    """Keys of what callbacks freeze or unfreeze up to `epoch`, by plan.

    A callback with a plan has ``planned_changes(epoch)``, which gives selectors of
    what it has frozen or unfrozen by then.
    """
    callbacks = [c for c in fitting.callbacks_of(model) or () if hasattr(c, "planned_changes")]
    if not callbacks:
        return set()
    sites = Names(model).sites
    return {
        f"training/assignments/{sites[position][0]}/frozen"
        for callback in callbacks
        for selector in callback.planned_changes(epoch)
        for position in select(selector, [site for _, site in sites])
    }


def trial_of(model: Any) -> dict[str, Any]:
    """Gives number and values of the KerasTuner trial that a ``fit`` is; empty where it is none."""
    return next(_trials(model), {})


def _trials(model: Any) -> Iterator[dict[str, Any]]:
    for callback in fitting.callbacks_of(model) or ():
        trial: Any = getattr(callback, "trial", None)
        values = getattr(getattr(trial, "hyperparameters", None), "values", None)
        if isinstance(values, dict):
            yield {"trial": str(trial.trial_id), **plain(values)}

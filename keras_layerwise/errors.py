"""The errors that the package raises for what a user asked and cannot have."""


class RuleError(ValueError):
    """A rule, a selector or a stored assignment that does not fit the model.

    The message names what was received, what would have been accepted and
    what to do about it.
    """


class FrozenHyperparameterError(RuntimeError):
    """A hyperparameter changed that was recorded as fixed for the run."""

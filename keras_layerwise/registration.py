"""Makes the package's classes known to Keras whenever both have been imported.

Keras loads a stored optimizer only if its class was registered, which takes
an import of the module; importing that module here would load Keras and its
backend for those, like the TensorBoard server, who only need the names.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

BACKENDS = ("tensorflow", "jax", "torch")


def once_keras_is_loaded(module: str) -> None:
    """Imports `module` now if Keras is loaded, and else as soon as it is."""
    if "keras" in sys.modules:
        _import(module)
    else:
        sys.meta_path.insert(0, _AfterKeras(module))


class _AfterKeras(importlib.abc.MetaPathFinder):
    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(keras: ModuleType) -> None:
                try:
                    execute(keras)
                except (ImportError, ValueError) as error:
                    sys.meta_path.insert(0, self)  # for the next attempt
                    error.add_note(_advice(error))
                    raise
                _import(self.module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign, assignment]
        return spec


def _advice(error: ImportError | ValueError) -> str:
    """Tells what to install or to set where Keras cannot load its backend."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    if missing in BACKENDS and missing not in installed:
        advice = f"Keras's backend {missing!r} is not installed. Install it: "
        advice += f"pip install 'keras-layerwise[{missing}]'."
    else:
        advice = "Keras cannot load the backend that KERAS_BACKEND or its keras.json names. "
        advice += f"keras-layerwise works with {', '.join(BACKENDS)}: "
        advice += f"pip install 'keras-layerwise[{BACKENDS[0]}]' (or another of the three)."
    if installed:
        advice += f" Or use what is installed: set KERAS_BACKEND to {' or '.join(installed)}."
    return advice


def _import(module: str) -> None:
    # A Keras that this package cannot use has to stay usable without it.
    with contextlib.suppress(ImportError):
        importlib.import_module(module)

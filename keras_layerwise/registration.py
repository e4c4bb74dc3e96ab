"""Makes the package's classes known to Keras whenever both have been imported.

Keras loads a stored optimizer only if its class was registered, which takes
an import of the module; importing that module here would load Keras and its
backend for those, like the TensorBoard server, who only need the names.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
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
                    asked = _asked()
                    if asked not in BACKENDS or not importlib.util.find_spec(asked):
                        error.add_note(advice(asked))
                    raise
                _import(self.module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign, assignment]
        return spec


def advice(backend: str) -> str:
    """Tells what to install or to set where Keras has a backend that is missing or not known."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if backend in BACKENDS:
        text = f"Keras's backend {backend!r} is not installed. Install it: "
        text += f"pip install 'keras-layerwise[{backend}]'."
    else:
        text = f"Keras's backend is {backend!r}; keras-layerwise works with {', '.join(BACKENDS)}: "
        text += f"pip install 'keras-layerwise[{BACKENDS[0]}]' (or another of the three)."
    if installed:
        text += f" Or use what is installed: set KERAS_BACKEND to {' or '.join(installed)}."
    return text


def _asked() -> str:
    """Gives the backend that Keras goes by: the environment's, else its file's."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):  # as in Keras: none, or no such file
        return BACKENDS[0]


def _import(module: str) -> None:
    # A Keras that this package cannot use has to stay usable without it.
    with contextlib.suppress(ImportError):
        importlib.import_module(module)

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
                execute(keras)
                _import(self.module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign, assignment]
        return spec


def _import(module: str) -> None:
    # A Keras that this package cannot use has to stay usable without it.
    with contextlib.suppress(ImportError):
        importlib.import_module(module)

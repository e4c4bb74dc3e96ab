"""Names of layers and weights that do not depend on the process.

Keras numbers the layers that it names itself over the whole process, so the
same code gives ``dense_7`` where a fresh process has ``dense``.
"""

import re
from collections import Counter
from typing import Any

from keras_layerwise.backend import internals
from keras_layerwise.model import structure


class Names:
    """The layers and weights of a model under names that do not depend on the process.

    Attributes:
        layers: each layer below the model by its path, in the model's order.
        paths: those paths by ``id(layer)``.
        sites: ``(path, site)`` of every weight.
        weights: path in this process to path in the record, of each weight.
        renamed: path in the record to path in this process, of each layer where they differ.
    """

    def __init__(self, model: Any) -> None:
        self.layers: dict[str, Any] = {}
        self.paths: dict[int, str] = {id(model): structure.MODEL}
        self.renamed: dict[str, str] = {}
        counts: Counter[str] = Counter()
        own: dict[int, str] = {}

        def visit(parent: Any, path: str, actual: str) -> None:
            for layer in internals.sublayers(parent):
                if id(layer) in self.paths:
                    continue
                if id(layer) not in own:
                    own[id(layer)] = _stable_name(layer, counts)
                inner = self._unique(f"{path}/{own[id(layer)]}" if path else own[id(layer)])
                inner_actual = f"{actual}/{layer.name}" if actual else layer.name
                self.paths[id(layer)] = inner
                self.layers[inner] = layer
                if inner != inner_actual:
                    self.renamed[inner] = inner_actual
                visit(layer, inner, inner_actual)

        visit(model, "", "")
        self._stable: dict[str, str] = {}
        for path, layer in self.layers.items():
            self._stable.setdefault(layer.name, path.rpartition("/")[2])
        used: Counter[str] = Counter()
        self.sites = []
        self.weights: dict[str, str] = {}
        for site in structure.sites(model):
            path = f"{self.paths[id(site.layer)]}/{site.weight.name}"
            used[path] += 1
            path = path if used[path] == 1 else f"{path}#{used[path]}"
            self.sites.append((path, site))
            # An optimizer that was built before it knew its model has Keras's own paths.
            self.weights.setdefault(getattr(site.weight, "path", site.path), path)
            self.weights[site.path] = path

    def stable_label(self, text: str | None) -> str | None:
        """Gives a rule's text, with the name that a layer has here."""
        kind, _, name = (text or "").partition(" ")
        return f"layer {self._stable[name]}" if kind == "layer" and name in self._stable else text

    def _unique(self, path: str) -> str:
        number, unique = 1, path
        while unique in self.layers:
            number += 1
            unique = f"{path}#{number}"
        return unique


def _stable_name(layer: Any, counts: Counter[str]) -> str:
    """Gives the layer's name; if Keras made it up, numbered anew as in a fresh process."""
    stem = re.sub(r"_\d+$", "", layer.name)
    if stem.replace("_", "") != type(layer).__name__.replace("_", "").lower():
        return str(layer.name)
    counts[stem] += 1
    return stem if counts[stem] == 1 else f"{stem}_{counts[stem] - 1}"

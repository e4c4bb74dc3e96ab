"""One process that trains, for `benchmarks.cases.process`: prints its peak memory in MiB."""

import sys
from typing import Any

from benchmarks import cases, models
from keras_layerwise import LayerwiseOptimizer, Rule


def main(name: str, optimizer: str, side: str) -> None:
    """Trains for 200 steps with the bare optimizer, with ours, or with decay to initial."""
    model = models.build(name)
    inner = models.OPTIMIZERS[optimizer][1]()
    rules: dict[str, Any] = dict(models.groups(model, None))
    if side == "to initial":
        rules["*"] = Rule(decay_to="initial")
    own = LayerwiseOptimizer(inner, rules, model=model)
    model.compile(inner if side == "bare" else own, loss="mse")
    models.stepper(name, model)(200)
    print(cases.peak_mib())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One process that trains, for `benchmarks.cases.process`: prints its peak memory in MiB."""

import sys

from benchmarks import cases, models
from keras_layerwise import LayerwiseOptimizer


def main(name: str, optimizer: str, side: str) -> None:
    """Trains the model for 200 steps with the bare optimizer or with ours."""
    model = models.build(name)
    inner = cases.OPTIMIZERS[optimizer][1]()
    own = LayerwiseOptimizer(inner, models.groups(model, None), model=model)
    model.compile(own if side == "ours" else inner, loss="mse")
    models.stepper(name, model)(200)
    print(cases.peak_mib())


if __name__ == "__main__":
    main(*sys.argv[1:])

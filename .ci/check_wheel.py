"""Checks the installed wheel: what is in it, what importing loads, what TensorBoard finds."""

import importlib.metadata
import json
import sys
import tempfile
import urllib.request
from pathlib import Path

import keras_layerwise

loaded = {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
if loaded:
    sys.exit(f"import keras_layerwise loaded {sorted(loaded)}")

from tensorboard import default, program  # noqa: E402 - it may load a framework itself

package = Path(keras_layerwise.__file__).parent
if not package.is_relative_to(sys.prefix):
    sys.exit(f"checked {package}, which is not the installed wheel")
version = importlib.metadata.version("keras-layerwise")
if version != keras_layerwise.__version__:
    sys.exit(f"the wheel says {version}, the package {keras_layerwise.__version__}")

source = Path(__file__).parents[1] / "keras_layerwise"
for path in source.rglob("*"):
    if path.is_file() and "__pycache__" not in path.parts:
        name = path.relative_to(source)
        if not (package / name).is_file():
            sys.exit(f"{name} is missing from the wheel")

for name in keras_layerwise.__all__:
    getattr(keras_layerwise, name)

with tempfile.TemporaryDirectory() as logs:
    server = program.TensorBoard(default.get_plugins())
    server.configure(argv=["tensorboard", "--logdir", logs, "--port", "0"])
    with urllib.request.urlopen(server.launch() + "data/plugins_listing") as answer:
        plugins = json.load(answer)
if "layerwise" not in plugins:
    sys.exit(f"TensorBoard finds {sorted(plugins)}, and no layerwise")

import keras  # noqa: E402 - names above have loaded it, and before that it must not be

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
first = model.layers[0]
optimizer = keras_layerwise.LayerwiseOptimizer("adam", {first: keras_layerwise.Rule(frozen=True)})
model.compile(optimizer, "mse")
before = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
model.fit(keras.ops.ones((4, 2)), keras.ops.zeros((4, 1)), verbose=0)
moved = [
    bool((old != keras.ops.convert_to_numpy(layer.kernel)).any())
    for old, layer in zip(before, model.layers, strict=True)
]
if moved != [False, True]:
    sys.exit(f"trained with the first of two layers frozen, and moved: {moved}")

names = len(keras_layerwise.__all__)
print(
    f"keras-layerwise {version}: all {names} public names import, {keras.backend.backend()} trains"
)

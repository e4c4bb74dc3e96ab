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

print(f"keras-layerwise {version}: all {len(keras_layerwise.__all__)} public names import")

"""What a run happens in: versions, devices, settings of the process, seeds."""

import importlib
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals
from keras_layerwise.storage.values import NEVER_SET, UNKNOWN


def runtime(model: Any) -> dict[str, Any]:
    """Gives the ``runtime`` group for `model`, as nested plain values.

    What a library does not let itself be asked is ``"unknown"``; a seed that
    was never set is ``"never set"``.
    """
    backend = internals.backend()
    compiled = bool(getattr(model, "compiled", False))
    versions = {"python": platform.python_version(), "keras": keras.version()}
    versions["numpy"] = np.__version__
    seeds = {
        "keras": _ask(lambda: _seed(internals.keras_seed())),
        "numpy": _ask(_numpy_seed),
        "python": UNKNOWN,
    }
    found: dict[str, Any] = {
        "backend": backend,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "dtype_policy": model.dtype_policy.name,
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
        "xla": bool(model.jit_compile) if compiled else UNKNOWN,
        "run_eagerly": bool(model.run_eagerly) if compiled else UNKNOWN,
        "distribution": _ask(lambda: _distribution(model)),
    }
    readers = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    if backend in readers:
        readers[backend](found, versions, seeds)
    return {**found, "versions": versions, "seeds": seeds}


def _tensorflow(found: dict[str, Any], versions: dict[str, Any], seeds: dict[str, Any]) -> None:
    tf = sys.modules["tensorflow"]
    gpus = tf.config.list_physical_devices("GPU")

    def name(device: Any) -> str:
        details = tf.config.experimental.get_device_details(device)
        return str(details.get("device_name", device.device_type))

    versions["tensorflow"] = tf.__version__
    if gpus:
        versions["cuda"] = _ask(lambda: str(tf.sysconfig.get_build_info()["cuda_version"]))
        found["memory_growth"] = _ask(
            lambda: all(tf.config.experimental.get_memory_growth(gpu) for gpu in gpus)
        )
    found["devices"] = _ask(lambda: [name(d) for d in tf.config.list_physical_devices()])
    found["determinism"] = _ask(internals.tensorflow_is_deterministic)
    # 0 stands for TensorFlow's own choice.
    found["intra_op_threads"] = tf.config.threading.get_intra_op_parallelism_threads()
    found["inter_op_threads"] = tf.config.threading.get_inter_op_parallelism_threads()
    seeds["tensorflow"] = _ask(lambda: _seed(internals.tensorflow_seed()))


def _jax(found: dict[str, Any], versions: dict[str, Any], seeds: dict[str, Any]) -> None:
    jax, jaxlib = sys.modules["jax"], importlib.import_module("jaxlib")
    devices = jax.devices()
    versions |= {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    if devices[0].platform in ("gpu", "cuda"):
        versions["cuda"] = _ask(lambda: str(devices[0].client.platform_version))
    found["devices"] = [device.device_kind for device in devices]
    found["determinism"] = "xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    found["x64"] = bool(jax.config.jax_enable_x64)
    found["matmul_precision"] = str(jax.config.jax_default_matmul_precision or "default")
    found["intra_op_threads"] = found["inter_op_threads"] = UNKNOWN
    # JAX keeps no generator: its keys come from Keras's seed.
    seeds["jax"] = seeds["keras"]


def _torch(found: dict[str, Any], versions: dict[str, Any], seeds: dict[str, Any]) -> None:
    torch = sys.modules["torch"]
    versions["torch"] = str(torch.__version__)
    found["devices"] = ["cpu"]
    if torch.cuda.is_available():
        versions["cuda"] = str(torch.version.cuda)
        count = torch.cuda.device_count()
        found["devices"] = [torch.cuda.get_device_name(i) for i in range(count)]
        found["cudnn_deterministic"] = bool(torch.backends.cudnn.deterministic)
    found["determinism"] = bool(torch.are_deterministic_algorithms_enabled())
    found["matmul_precision"] = torch.get_float32_matmul_precision()
    found["intra_op_threads"] = torch.get_num_threads()
    found["inter_op_threads"] = torch.get_num_interop_threads()
    # PyTorch draws a seed where none was set, and does not tell the two apart.
    seeds["torch"] = int(torch.initial_seed())


def _distribution(model: Any) -> str:
    distribution = keras.distribution.distribution()
    if distribution is not None:
        return type(distribution).__name__
    if not internals.has_strategy(model):
        return "none"
    strategy = model.distribute_strategy
    return f"{type(strategy).__name__}({strategy.num_replicas_in_sync})"


def _numpy_seed() -> Any:
    """Tells whether NumPy was seeded: it keeps its first entropy, and of a seed nothing."""
    return UNKNOWN if internals.numpy_is_seeded() else NEVER_SET


def _seed(value: Any) -> Any:
    return NEVER_SET if value is None else int(value)


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception:  # a private place moved: the value is not known, the run goes on
        return UNKNOWN

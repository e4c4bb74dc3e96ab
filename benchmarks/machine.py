"""The machine, the versions and the commit that figures belong to."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorboard")


def choose_backend() -> str:
    """The backend that is asked for, or the first that is installed."""
    installed = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    return os.environ.setdefault("KERAS_BACKEND", installed[0])


def gpu_name() -> str | None:
    """The GPU that the backend computes on, None where it computes on the CPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details(found[0]) if found else {}
        return str(details.get("device_name", "GPU")) if found else None
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def synchronise() -> None:
    """Waits until the device has done all that it was given."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _driver() -> str | None:
    """The version of NVIDIA's driver, None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    return answer.partition("\n")[0].strip() or None


def describe() -> dict[str, Any]:
    """What a reader needs to judge and to repeat a measurement."""
    gpu = gpu_name()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": gpu,
        **({"driver": _driver()} if gpu else {}),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in PACKAGES
            if importlib.util.find_spec(name)
        },
    }


def revision() -> dict[str, str]:
    """The commit, with ``+`` where the working tree has changes, and the date."""
    return {"commit": _commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}


def kind(machine: dict[str, Any]) -> str:
    """Name of the results file for machines of this kind."""
    text = machine["gpu"] or f"{machine['processor']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "keras_layerwise", "benchmarks/*.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")

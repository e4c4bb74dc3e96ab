"""Sends everything that goes to TensorBoard to Weights & Biases too, here without a network."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import wandb

import keras_layerwise as kl


class WandbSink:
    """A sink for a run of Weights & Biases, whose steps are those of the optimizer."""

    def __init__(self, run):
        self.run = run
        run.define_metric("*", step_metric="optimizer_step")

    def vectors(self, items, step):
        for series, tag, values in items:
            name = series.statistic or (series.facts.name if series.facts else tag)
            rows = zip(series.rows, values, strict=True)
            self._log({f"{series.kind}/{name}/{r.name}": float(v) for r, v in rows}, step)

    def scalars(self, values, step, description=""):
        self._log(dict(values), step)

    def messages(self, series, tag, messages, step):
        if series.kind == "record":
            groups = ("user", "training", "architecture", "regularization")
            self.run.config.update({g: messages[-1][g] for g in groups}, allow_val_change=True)
        elif series.kind == "alarms":
            for text in dict.fromkeys(message["message"] for message in messages):
                self.run.alert(title="keras-layerwise", text=text)

    def text(self, tag, markdown, step):
        self._log({tag: wandb.Html(f"<pre>{markdown}</pre>")}, step)

    def image(self, tag, png, width, height, step):
        path = Path(self.run.dir, f"{tag.replace('/', '_')}.png")
        path.write_bytes(png)
        self._log({tag: wandb.Image(str(path))}, step)

    def close(self):
        """The run is its maker's to finish: another `fit` may go on with it."""

    def _log(self, values, step):
        self.run.log({**values, "optimizer_step": step})


if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    model.compile("sgd", "mse")
    settings = wandb.Settings(silent=True, x_disable_stats=True)
    with wandb.init(project="example", mode="offline", dir=folder, settings=settings) as run:
        sink = WandbSink(run)
        callbacks = [
            kl.FreezeHyperparameters(Path(folder, "log"), {"seed": 1}, sinks=[sink]),
            kl.WeightDrift(Path(folder, "log"), sinks=[sink]),
        ]
        model.fit(np.ones((8, 4)), np.ones((8, 2)), epochs=2, verbose=0, callbacks=callbacks)
        assert run.config["user"] == {"seed": 1}
    wandb.teardown()  # waits until its process has written everything
    (written,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    assert all(text in content for text in (b"drift/relative_l2/out", b"optimizer_step"))
    print("drift, results and settings are in", written.name)

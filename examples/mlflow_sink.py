"""Sends everything that goes to TensorBoard to MLflow too, here to a folder of this machine."""

import os
import re
import tempfile
from pathlib import Path

import keras
import mlflow
import numpy as np

import keras_layerwise as kl


class MlflowSink:
    """A sink for the active run of MLflow."""

    def vectors(self, items, step):
        for series, tag, values in items:
            name = series.statistic or (series.facts.name if series.facts else tag)
            rows = zip(series.rows, values, strict=True)
            # Not "drift/l2/...": that is a scalar, and in MLflow's folders no folder too.
            self.scalars({f"rows/{series.kind}/{name}/{r.name}": float(v) for r, v in rows}, step)

    def scalars(self, values, step, description=""):
        # MLflow takes fewer characters in a name than Keras does.
        named = {re.sub(r"[^\w\-. /]", "_", name): float(value) for name, value in values.items()}
        mlflow.log_metrics(named, step=step)

    def messages(self, series, tag, messages, step):
        mlflow.log_dict(messages[-1] if series.kind == "record" else messages, f"{tag}-{step}.json")

    def text(self, tag, markdown, step):
        mlflow.log_text(markdown, f"{tag}-{step}.md")

    def image(self, tag, png, width, height, step):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{Path(tag).name}-{step}.png")
            path.write_bytes(png)
            mlflow.log_artifact(str(path), str(Path(tag).parent))

    def close(self):
        """The run is its maker's to end: another `fit` may go on with it."""


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # a database serves as well
    mlflow.set_tracking_uri((folder / "mlruns").as_uri())
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    model.compile("sgd", "mse")
    with mlflow.start_run() as run:
        callbacks = [
            kl.FreezeHyperparameters(folder / "log", {"seed": 1}, sinks=[MlflowSink()]),
            drift := kl.WeightDrift(folder / "log", sinks=[MlflowSink()]),
        ]
        model.fit(np.ones((8, 4)), np.ones((8, 2)), epochs=2, verbose=0, callbacks=callbacks)
    client = mlflow.MlflowClient()
    found = client.get_metric_history(run.info.run_id, "rows/drift/relative_l2/out")
    assert [metric.step for metric in found] == drift.history["step"].tolist()
    np.testing.assert_allclose(
        [metric.value for metric in found], drift.history["relative_l2"][:, 0], rtol=1e-6
    )
    assert any(file.path == "layerwise" for file in client.list_artifacts(run.info.run_id))
    print("drift, results and settings are in MLflow's run", run.info.run_name)

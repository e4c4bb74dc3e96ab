"""A row that helps: few columns, the user's first, and what differs from the defaults."""

import json
from pathlib import Path

import keras
import pytest

import keras_layerwise as kl
from keras_layerwise.hyperparameters.row import MOST, columns, rule_lines
from keras_layerwise.storage.values import flat

SAVED = Path(__file__).parents[1] / "saved" / "0.1"


def row_of(model, **user):
    return columns({**kl.inventory(model), "user": user})


@pytest.mark.once
def test_a_large_network_has_a_row_that_fits():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
    rules = {"block_1_*": 0.1, "block_2_*": kl.Rule(frozen=True)}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.AdamW(1e-3), rules, model=model), "mse")
    row = row_of(model, seed=1, nested={"depth": 2})
    assert len(row) <= MOST
    assert list(row)[:2] == ["user/seed", "user/nested/depth"]
    assert row["training/learning_rate"] == 0.001
    assert row["training/rules"] == "block_1_*: × 0.1; block_2_*: frozen"
    assert row["architecture/layers/BatchNormalization/momentum"] == 0.999
    assert row["architecture/layers/Conv2D/use_bias"] is False
    assert not [key for key in row if "assignments" in key]


def test_of_few_layers_each_has_its_own_columns():
    layers = [keras.layers.Dense(8, activation="relu", name="a"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, name="b")])
    row = row_of(model)
    layers = {k: v for k, v in row.items() if k.startswith("architecture/layers/")}
    assert layers == {
        "architecture/layers/a/units": 8,
        "architecture/layers/a/activation": "relu",
        "architecture/layers/dropout/rate": 0.3,
        "architecture/layers/b/units": 1,
    }
    assert row["regularization/dropout/rate"] == 0.3


def test_the_users_values_are_never_left_out():
    user = {f"u{i}": i for i in range(MOST + 5)}
    row = row_of(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), **user)
    assert {key: row[f"user/{key}"] for key in user} == user


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"multiplier": 0.1}, "e: × 0.1"),
        ({"learning_rate": 0.01}, "e: rate 0.01"),
        ({"frozen": True, "multiplier": 0.5}, "e: frozen, × 0.5"),
        ({"multiplier": 1.0, "weight_decay": 0.0}, "e: decay 0.0"),
    ],
)
def test_a_rule_is_one_line(setting, line):
    entry = {"rule": "e", "multiplier": None, "learning_rate": None, **setting}
    assert rule_lines({"e/kernel": entry, "e/bias": entry}) == [line]


def test_what_the_first_version_wrote_still_reads():
    expected = json.loads((SAVED / "expected.json").read_text())
    record = kl.load_record(SAVED / "run")
    assert record.fingerprint == expected["record_fingerprint"]
    assert record.fingerprints["hyperparameters"] == record.fingerprint
    assert record["user"] == {"seed": 7, "note": "saved by 0.1"}
    assert flat(record.values)["training/assignments/body/a/kernel/multiplier"] == 0.25
    assert "stem: frozen, × 0.1" in columns(record.values)["training/rules"]

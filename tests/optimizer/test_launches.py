"""A rate for each layer launches no more operations than one for all: counted, not timed."""

import keras
import pytest

from benchmarks import launches, models
from keras_layerwise import LayerwiseOptimizer

BACKEND = keras.backend.backend()

# Operations that an update may have beyond the bare optimizer's, however many weights there are:
# on JAX the rates are multiplied by one.
BEYOND_BARE = {"tensorflow": 0, "torch": 0, "jax": 1}


@pytest.fixture(scope="module")
def counts():
    """The operations of one update of MobileNetV2's weights, by who makes it."""
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=2
    )
    # XLA would take half a minute for all of them.
    variables = model.trainable_variables[: 12 if BACKEND == "jax" else None]

    def of(rules=None):
        inner = keras.optimizers.Adam(1e-3)
        if rules is None:
            return launches.of_update(inner, variables).total()
        optimizer = LayerwiseOptimizer(inner, rules, model=model)
        return launches.of_update(optimizer, variables).total()

    each = models.groups(model, None)
    assert len(set(each.values())) > 100
    return {"bare": of(), "none": of({}), "each": of(each)}


def test_a_rate_for_each_layer_launches_as_many_as_the_bare_optimizer(counts):
    assert counts["each"] - counts["bare"] <= BEYOND_BARE[BACKEND]


def test_without_rules_it_is_no_more_either(counts):
    assert counts["none"] - counts["bare"] <= BEYOND_BARE[BACKEND]


def test_what_xla_launches_is_read_from_the_entry_of_its_program():
    text = """HloModule jit_f

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %m = f32[8]{0} multiply(%p, %p)
}

ENTRY %main (a: f32[8], b: f32[8]) -> (f32[8], f32[8]) {
  %a = f32[8]{0} parameter(0)
  %f = (f32[8]{0}, f32[8]{0}) fusion(%a), kind=kLoop, calls=%fused
  %g = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused
  ROOT %t = (f32[8]{0}, f32[8]{0}) tuple(%f, %g)
}
"""
    assert launches.of_program(text) == {"fusion": 2}

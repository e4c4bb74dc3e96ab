"""A rate for each layer launches no more operations than one for all: counted, not timed."""

import functools

import keras
import pytest

from benchmarks import launches, models
from keras_layerwise import LayerwiseOptimizer

BACKEND = keras.backend.backend()

# Operations that an update may have beyond the bare optimizer's, however many weights there are:
# on JAX the rates are multiplied by one.
BEYOND_BARE = {"tensorflow": 0, "torch": 0, "jax": 1}


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(1e-3),
    "SGD": lambda: keras.optimizers.SGD(1e-3, momentum=0.9),
}
if BACKEND == "torch":  # whose lists of weights are no other code for each; XLA takes a minute
    OPTIMIZERS |= {
        "RMSprop": lambda: keras.optimizers.RMSprop(1e-3, momentum=0.9, centered=True),
        "Lion": lambda: keras.optimizers.Lion(1e-3),
    }


@pytest.fixture(scope="module")
def model():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=2
    )


@pytest.fixture(scope="module", params=OPTIMIZERS)
def count(request, model):
    """Gives the operations of one update of MobileNetV2's weights, by who makes it."""
    make, each = OPTIMIZERS[request.param], models.groups(model, None)
    assert len(set(each.values())) > 100
    # XLA would take half a minute for all of them, TensorFlow five seconds, and one optimizer for
    # more than a few is enough.
    few = BACKEND == "jax" or request.param != "Adam"
    variables = model.trainable_variables[: 12 if few else 60]

    def of(side, constant=None):
        optimizer = make()
        if side != "bare":
            rules = each if side == "each" else {}
            optimizer = LayerwiseOptimizer(optimizer, rules, model=model)
        return launches.of_update(optimizer, variables, constant).total()

    return functools.cache(of)


def test_a_rate_for_each_layer_launches_as_many_as_the_bare_optimizer(count):
    assert count("each") - count("bare") <= BEYOND_BARE[BACKEND]


def test_a_rate_for_each_layer_launches_as_many_as_none(count):
    assert count("each") <= count("none")


def test_without_rules_it_is_no_more_either(count):
    assert count("none") - count("bare") <= BEYOND_BARE[BACKEND]


@pytest.mark.skipif(BACKEND != "jax", reason="programs that XLA compiles from JAX")
def test_rates_as_constants_of_the_program_would_launch_no_fewer(count):
    assert count("each") - count("each", "multipliers") <= BEYOND_BARE[BACKEND]


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

"""What XLA compiles of an update is few programs, however many layers."""

import re

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer
from keras_layerwise.backend import jax_updates

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="programs that XLA compiles from JAX"
)

LAYERS = 48


def compiled(optimizer):
    """The text of the program that updates equal layers."""
    import jax

    weights = [keras.Variable(np.ones((4, 4)), name=f"w{i}") for i in range(LAYERS)]
    optimizer.build(weights)
    given = [v.value for v in optimizer.variables], [v.value for v in weights]
    made = jax.jit(optimizer.stateless_apply).lower(given[0], given[1], given[1]).compile()
    return made.as_text()


def programs(optimizer):
    """The different kernels of an update of equal layers, by their text without names."""
    text = compiled(optimizer)
    bodies = re.findall(r"^%\S*fused\S* \(.*?\{\n(.*?)^\}", text, re.DOTALL | re.M)
    assert bodies
    return {_without_names(body) for body in bodies}


def _without_names(body):
    bare = re.sub(r"(metadata|backend_config)=\{.*?\}+", "", body)
    places = {}
    return re.sub(r"%[\w.-]+", lambda m: f"%{places.setdefault(m[0], len(places))}", bare)


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop"])
def test_equal_layers_at_other_rates_share_programs(name):
    make = getattr(keras.optimizers, name)
    rules = {f"w{i}": 0.5 + i / 100 for i in range(LAYERS)}
    most = len(programs(make(1e-3))) + jax_updates.TOGETHER
    assert len(programs(LayerwiseOptimizer(make(1e-3), rules))) <= most


def test_a_program_has_fewer_arrays_of_places_than_weights():
    """XLA prepares each anew for every step."""
    rules = {f"w{i}": 0.5 + i / 100 for i in range(LAYERS)}
    text = compiled(LayerwiseOptimizer(keras.optimizers.Adam(1e-3), rules))
    assert 0 < len(re.findall(r"= u32\[3\]\S* constant\(", text)) <= LAYERS / jax_updates.TOGETHER


@pytest.mark.parametrize("count", [1, 2, 3, 16, 130])
def test_parts_are_the_elements_bit_for_bit(count):
    import jax

    values = np.random.default_rng(0).normal(size=count).astype("float32")
    values[[0, -1]] = [np.nan, np.inf] if count > 1 else 0.1
    found = jax.jit(lambda v, step: jax_updates.part(v, count, step))(values, 7)
    assert len(found) == count
    np.testing.assert_array_equal(np.stack(found), values)


def test_rates_can_be_differentiated_and_mapped():
    import jax

    def loss(vector, step=3):
        return sum(i * x**2 for i, x in enumerate(jax_updates.part(vector, 7, step)))

    values = np.linspace(0.1, 1, 7, dtype="float32")
    expected = 2 * np.arange(7) * values
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(values), expected, rtol=1e-6)
    several = np.stack([values, 2 * values])
    found = jax.jit(jax.vmap(jax.grad(loss)))(several)
    np.testing.assert_allclose(found, [expected, 2 * expected], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(loss))(values), expected, rtol=1e-6)


def copies(optimizer, width):
    """How many weights the step of three equal layers copies."""
    import jax

    layers = [keras.layers.Dense(width, use_bias=False) for _ in range(3)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile(optimizer, loss="mse")
    data = np.ones((2, width), "float32"), np.ones((2, width), "float32")
    model._symbolic_build(data_batch=data)
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    state = model._get_jax_state(**{f"{kind}_variables": True for kind in kinds})
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, data).compile()
    return len(re.findall(rf"= f32\[{width},{width}\]\S* copy\(", step.as_text()))


def test_large_weights_are_not_copied_for_the_gradients_that_read_them():
    import jax

    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        pytest.skip("XLA copies them on a single processor")
    make = keras.optimizers.Adam
    assert copies(make(), 256) == 2  # all but the first layer's, which no gradient reads
    assert copies(LayerwiseOptimizer(make(), {"*": 0.5}), 256) == 0
    assert copies(LayerwiseOptimizer(make(), {"*": 0.5}), 16) == copies(make(), 16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("value", [0.0, -1.5, np.nan, np.inf])
def test_a_rate_is_the_same_whatever_the_gradient_is(dtype, value):
    import jax

    weight = keras.Variable(np.ones((256, 256)), dtype=dtype)
    gradient = jax.numpy.full((3, 2), value, dtype)
    rate = np.float32(0.1)
    found = jax.jit(lambda r, g: jax_updates.known_after(r, g, weight))(rate, gradient)
    assert found == rate
    slope = jax.jit(jax.grad(lambda r: jax_updates.known_after(r, gradient, weight)))(rate)
    assert slope == 1

"""Compiled again, the numbers are those of `torch.optim` after ``add_param_group``."""

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule
from tests.shared.models import numpy

if keras.backend.backend() != "torch":
    pytest.skip("compares with torch.optim", allow_module_level=True)

import torch

L = keras.layers
RATE, ROWS, PHASE = 0.02, 8, 4
OPTIMIZERS = {
    "Adam": (
        lambda: keras.optimizers.Adam(RATE),
        lambda groups: torch.optim.Adam(groups, lr=RATE, eps=1e-7),
        {"momentums": "exp_avg", "velocities": "exp_avg_sq"},
    ),
    "AdamW": (
        lambda: keras.optimizers.AdamW(RATE, weight_decay=0.2),
        lambda groups: torch.optim.AdamW(groups, lr=RATE, eps=1e-7, weight_decay=0.2),
        {"momentums": "exp_avg", "velocities": "exp_avg_sq"},
    ),
    "momentum": (
        lambda: keras.optimizers.SGD(RATE, momentum=0.9),
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9),
        {},  # Keras keeps the rate in the momentum, PyTorch does not
    ),
}


class Twin:
    """A Keras model and the same network in PyTorch's own words, fed the same batches."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.modules = {}
        self.layers = {}

    def model(self, *names):
        """A network of the layers of these names; those that there are keep their weights."""
        width = 4
        for name in names:
            if name not in self.layers:
                self.layers[name] = L.Dense(2, name=name)
                self.layers[name].build((None, width))
                module = torch.nn.Linear(width, 2)
                kernel, bias = (torch.tensor(numpy(w)) for w in self.layers[name].weights)
                module.weight.data, module.bias.data = kernel.T.contiguous(), bias
                self.modules[name] = module
            width = 2
        self.names = names
        return keras.Sequential([keras.Input((4,)), *(self.layers[name] for name in names)])

    def train(self, model, optimizer, steps=PHASE):
        for _ in range(steps):
            x = self.rng.normal(size=(ROWS, 4)).astype("float32")
            y = np.tanh(x[:, :2])
            model.train_on_batch(x, y)
            found = torch.from_numpy(x)
            for name in self.names:
                found = self.modules[name](found)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(found, torch.from_numpy(y)).backward()
            optimizer.step()

    def check(self, ours, theirs, columns):
        plan, state = ours.plan, ours.state.variables()
        for name, module in self.modules.items():
            pairs = zip(self.layers[name].weights, (module.weight, module.bias), strict=True)
            for weight, parameter in pairs:
                expected = parameter.detach().numpy().T
                np.testing.assert_allclose(numpy(weight), expected, rtol=2e-5, atol=2e-6)
                place = next(i for i, w in enumerate(plan.weights) if w is weight)
                held = theirs.state.get(parameter, {})
                for column, key in columns.items():
                    slot = state.get(f"{column}.{place}")
                    assert (slot is None) == (key not in held)
                    if slot is not None:
                        expected = held[key].numpy().T
                        atol = 1e-4 * np.abs(expected).max()
                        np.testing.assert_allclose(numpy(slot), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_body_that_joins_is_a_group_that_is_added(name):
    inner, groups_of, columns = OPTIMIZERS[name]
    twin = Twin()
    model = twin.model("body", "head")
    rules = {"body": Rule(multiplier=0.1, weight_decay=0.05 if name == "AdamW" else None)}
    ours = LayerwiseOptimizer(inner(), rules)
    body, head = (list(twin.modules[n].parameters()) for n in ("body", "head"))
    theirs = groups_of([{"params": head}])
    model.get_layer("body").trainable = False
    model.compile(ours, "mse")
    for parameter in body:
        parameter.requires_grad_(False)
    twin.train(model, theirs)
    twin.check(ours, theirs, columns)

    model.get_layer("body").trainable = True
    model.compile(ours, "mse")
    for parameter in body:
        parameter.requires_grad_(True)
    decay = {"weight_decay": 0.05} if name == "AdamW" else {}
    theirs.add_param_group({"params": body, "lr": 0.1 * RATE, **decay})
    twin.train(model, theirs)
    twin.check(ours, theirs, columns)


def test_a_head_that_is_replaced_leaves_the_state_of_the_body():
    inner, groups_of, columns = OPTIMIZERS["Adam"]
    twin = Twin()
    model = twin.model("body", "head")
    ours = LayerwiseOptimizer(inner(), {"body": 0.1})
    body, head = (list(twin.modules[n].parameters()) for n in ("body", "head"))
    theirs = groups_of([{"params": body, "lr": 0.1 * RATE}, {"params": head}])
    model.compile(ours, "mse")
    twin.train(model, theirs)
    model = twin.model("body", "other")
    model.compile(ours, "mse")
    for parameter in head:
        parameter.grad = None
    theirs.add_param_group({"params": list(twin.modules["other"].parameters())})
    twin.train(model, theirs)
    twin.check(ours, theirs, columns)

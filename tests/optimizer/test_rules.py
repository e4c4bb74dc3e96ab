"""Which rule takes which weight, and what is said where none can."""

import re

import keras
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule, RuleError, Rules, outline
from tests.shared import models
from tests.shared.models import fit


def multipliers(model, rules):
    optimizer = LayerwiseOptimizer("adam", rules, model=model)
    return {a.path: a.multiplier for a in optimizer.assignments}


def test_the_first_rule_that_says_something_about_a_setting_wins():
    found = multipliers(models.sequential(), {"*/bias": 0.5, "body": 0.1, "*": 0.2})
    assert found == {
        "body/kernel": 0.1,
        "body/bias": 0.5,
        "bn/gamma": 0.2,
        "bn/beta": 0.2,
        "head/kernel": 0.2,
        "head/bias": 0.5,
    }


def settings(model, rules, inner=None):
    inner = inner or keras.optimizers.AdamW(0.01, weight_decay=0.3)
    optimizer = LayerwiseOptimizer(inner, rules, model=model)
    return {a.path: (a.multiplier, a.weight_decay, a.frozen) for a in optimizer.assignments}


def test_rules_add_up_by_setting():
    rules = (
        Rules({"*/bias": Rule(weight_decay=0.0)}, preset="a preset")
        | {"body": 0.1, "head": Rule(frozen=False)}
        | Rules({"*": Rule(multiplier=0.5, weight_decay=0.2, frozen=True)})
    )
    assert settings(models.sequential(), rules) == {
        "body/kernel": (0.1, 0.2, True),
        "body/bias": (0.1, 0.0, True),
        "bn/gamma": (0.5, 0.2, True),
        "bn/beta": (0.5, 0.2, True),
        "head/kernel": (0.5, 0.2, False),
        "head/bias": (0.5, 0.0, False),
    }


def test_rules_join_in_order_with_dicts_on_either_side():
    one, two = Rules({"body": 0.1}), Rules({"head": 0.2})
    assert list(one | two) == [("body", Rule(multiplier=0.1)), ("head", Rule(multiplier=0.2))]
    assert {"body": 0.1} | two == one | {"head": 0.2} == one | two
    assert one | two != two | one
    assert len({} | one | two) == 2
    with pytest.raises(TypeError):
        one | [("head", 0.2)]


def test_a_presets_rules_may_be_covered_and_a_users_may_not():
    preset = Rules({"body": 0.1, "head": 1.0}, preset="layer_decay")
    assert (preset | {"bn": 0.5}).preset is None
    assert preset.preset == "layer_decay"
    found = multipliers(models.sequential(), {"body": 0.3} | preset)
    assert found["body/kernel"] == 0.3
    with pytest.raises(RuleError, match=r"'body/bias' has no effect.*rate is taken by 'body'"):
        multipliers(models.sequential(), preset | {"body/bias": 0.5})


def test_the_rules_of_a_weight_are_all_named():
    rules = {"*/bias": Rule(weight_decay=0.0), "body": 0.1}
    optimizer = LayerwiseOptimizer("adam", rules, model=models.sequential())
    assert [a.rule for a in optimizer.assignments[:3]] == ["body", "*/bias | body", None]


def test_a_rule_for_a_layer_that_is_not_trainable_now_is_no_error():
    model = models.sequential()
    model.get_layer("body").trainable = False
    optimizer = LayerwiseOptimizer("adam", {"body": 0.1, "head": 0.5}, model=model)
    assert {a.layer: a.multiplier for a in optimizer.assignments} == {"bn": 1.0, "head": 0.5}


@pytest.mark.parametrize("rules", [None, {}, Rules()])
def test_no_rules(rules):
    assert set(multipliers(models.sequential(), rules).values()) == {1.0}


@pytest.mark.parametrize("name", ["multiplier", "learning_rate"])
@pytest.mark.parametrize("value", [1e-39, 5e-324])
def test_a_rate_that_float32_makes_zero(name, value):
    with pytest.raises(RuleError, match="0 in float32"):
        Rule(**{name: value})


@pytest.mark.parametrize(
    "selector",
    [
        "bn",
        "bn/*",
        "b?/*",
        re.compile(r"bn/.*"),
        keras.layers.BatchNormalization,
        lambda layer, weight: layer.name == "bn",
        ("bn/gamma", "bn/beta"),
    ],
    ids=["name", "glob", "glob of one", "regex", "class", "callable", "tuple"],
)
def test_ways_to_say_the_same(selector):
    found = multipliers(models.sequential(), {selector: 0.1})
    assert [path for path, m in found.items() if m == 0.1] == ["bn/gamma", "bn/beta"]


def test_by_identity():
    model = models.sequential()
    found = multipliers(model, {model.get_layer("bn"): 0.1})
    assert [path for path, m in found.items() if m == 0.1] == ["bn/gamma", "bn/beta"]


def test_by_identity_without_a_model():
    model = models.sequential()
    model.compile(LayerwiseOptimizer("sgd", {model.get_layer("bn"): 0.1}), loss="mse")
    fit(model, epochs=1)
    taken = [a.path for a in model.optimizer.assignments if a.multiplier == 0.1]
    assert [path.rpartition("/")[2] for path in taken] == ["gamma", "beta"]


def test_layers_of_one_name_in_two_submodels():
    model = models.nested()
    assert sum(m == 0.1 for m in multipliers(model, {"dense": 0.1}).values()) == 4
    found = multipliers(model, {"left/dense": 0.1, model.get_layer("right"): 0.2})
    assert found["left/dense/kernel"] == 0.1
    assert found["left/out/kernel"] == 1.0
    assert found["right/dense/kernel"] == found["right/out/bias"] == 0.2


def test_a_shared_layer_has_one_setting_by_any_of_its_paths():
    model = models.shared()
    assert multipliers(model, {"twice": 0.1})["twice/kernel"] == 0.1
    assert len(multipliers(model, {"twice": 0.1})) == 6


def test_a_shared_submodel_is_found_under_every_parent():
    shared = keras.layers.Dense(3, name="shared")
    left = keras.Sequential([keras.Input((3,)), shared], name="left")
    right = keras.Sequential([keras.Input((3,)), shared], name="right")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, left(inputs) + right(inputs))
    for parent in ("left", "right", "left/shared", "right/shared"):
        assert set(multipliers(model, {parent: 0.1}).values()) == {0.1}


def test_wildcards_in_a_name_are_literal_first():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, name="d[1]"),
            keras.layers.Dense(2, name="d1"),
        ]
    )
    found = multipliers(model, {"d[1]": 0.1})
    assert [path for path, m in found.items() if m == 0.1] == ["d[1]/kernel", "d[1]/bias"]


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda parts: parts.neck, "'neck' selects nothing.*no weights in it; print the outline"),
        (lambda parts: parts.blocks[5:], "past their end"),
        (lambda parts: outline(models.nested()).head, "'head' selects nothing.*another model"),
    ],
)
def test_a_part_that_selects_nothing_says_why(pick, message):
    model = models.sequential()
    selector = pick(outline(model))
    with pytest.raises(RuleError, match=message):
        LayerwiseOptimizer("adam", {selector: 0.1}, model=model)


def other_layer():
    layer = keras.layers.Dense(3, name="other")
    layer.build((None, 4))
    return layer


WRONG_RULES = {
    "nothing": (models.sequential, {"haed": 0.1}, "'haed' selects nothing.*'head'"),
    "nothing, glob": (models.sequential, {"nothing/*": 0.1}, "selects nothing"),
    "nothing, regex": (models.sequential, {re.compile("kernel"): 0.1}, "selects nothing"),
    "nothing, callable": (models.sequential, {lambda *_: False: 0.1}, "selects nothing"),
    "nothing, class": (models.sequential, {keras.layers.Conv2D: 0.1}, "Conv2D.*selects nothing"),
    "in the shadow": (
        models.sequential,
        {"body": 0.1, "body/kernel": 0.2},
        "'body/kernel' has no effect: .*'body', which comes earlier",
    ),
    "another model's layer": (models.sequential, {other_layer(): 0.1}, "not part of this model"),
    "unbuilt layer": (
        models.sequential,
        {keras.layers.Dense(3, name="new"): 0.1},
        "has no weights yet",
    ),
    "moving statistics": (
        models.sequential,
        {"bn/moving_mean": 0.1},
        "only weights that are not trainable",
    ),
    "callable that raises": (
        models.sequential,
        {lambda layer, weight: layer.nothing: 0.1},
        "raised AttributeError",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "rules", "message"), WRONG_RULES.values(), ids=WRONG_RULES.keys())
def test_a_rule_that_cannot_hold_is_an_error_at_once(make, rules, message):
    with pytest.raises(RuleError, match=message):
        LayerwiseOptimizer("adam", rules, model=make())


@pytest.mark.parametrize("name", ["nothing", "in the shadow", "another model's layer"])
def test_without_a_model_it_is_an_error_before_the_first_step(name):
    make, rules, _ = WRONG_RULES[name]
    model = make()
    before = models.weights_of(model)
    model.compile(LayerwiseOptimizer("adam", rules), loss="mse")
    with pytest.raises(RuleError, match=r"selects nothing|no effect"):
        fit(model)
    assert all((a == b).all() for a, b in zip(before, models.weights_of(model), strict=True))


@pytest.mark.parametrize("selector", [keras.layers.Dense, lambda _layer, _weight: True])
def test_classes_and_callables_need_the_model(selector):
    optimizer = LayerwiseOptimizer("adam", {selector: 0.1})
    with pytest.raises(RuleError, match="Pass model="):
        optimizer.build([models.variable([1.0])])
    model = models.sequential()
    model.compile(optimizer, loss="mse")
    model.train_on_batch(*models.data(rows=8))
    assert optimizer.selected("body")[0].multiplier == 0.1


@pytest.mark.parametrize("name", ["multiplier", "learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_numbers_out_of_range(name, value):
    with pytest.raises(RuleError, match=re.escape(repr(value))):
        Rule(**{name: value})


@pytest.mark.parametrize("name", ["multiplier", "learning_rate", "weight_decay", "frozen"])
@pytest.mark.parametrize("value", ["0.1", [0.1], object()])
def test_values_of_another_type(name, value):
    with pytest.raises(TypeError, match=name):
        Rule(**{name: value})


def test_a_multiplier_and_a_rate_exclude_one_another():
    with pytest.raises(RuleError, match=r"not both.*0\.1.*0\.2"):
        Rule(multiplier=0.1, learning_rate=0.2)


@pytest.mark.parametrize("rules", [[("a", 0.1)], "a", 3, {"a": "0.1"}, {"a": None}, {3: 0.1}])
def test_rules_of_another_type(rules):
    with pytest.raises(TypeError, match=r"Accepted|accepted|dict"):
        LayerwiseOptimizer("adam", rules)


@pytest.mark.parametrize(
    "argument", [{"learning_rate": 0.1}, {"clipnorm": 1.0}, {"weight_decay": 0.1}]
)
def test_settings_of_the_inner_optimizer_are_sent_there(argument):
    with pytest.raises(TypeError, match=f"{next(iter(argument))}: .*belong on the inner optimizer"):
        LayerwiseOptimizer("adam", {}, **argument)


def test_an_inner_optimizer_that_is_built():
    inner = keras.optimizers.Adam()
    inner.build([models.variable([1.0])])
    with pytest.raises(RuleError, match="already built"):
        LayerwiseOptimizer(inner, {})


@pytest.mark.parametrize(
    "inner",
    [
        lambda: LayerwiseOptimizer("adam", {}),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        lambda: keras.optimizers.Adam,
        lambda: 3,
    ],
)
def test_an_inner_optimizer_that_is_none(inner):
    with pytest.raises(TypeError, match=r"wrapper itself|is a Keras optimizer"):
        LayerwiseOptimizer(inner(), {})


def test_rate_zero_under_ftrl_would_be_nan():
    with pytest.raises(RuleError, match="Ftrl"):
        LayerwiseOptimizer("ftrl", {"body": 0.0}, model=models.sequential())


def test_the_wrong_model():
    model = models.sequential()
    model.compile(LayerwiseOptimizer("adam", {}, model=models.sequential()), loss="mse")
    with pytest.raises(RuleError, match="not a weight of it"):
        fit(model)


def test_summary_is_the_look_before_training(capsys):
    model = models.sequential()
    rules = {
        "body": Rule(multiplier=0.1, frozen=True),
        "*/bias": Rule(learning_rate=0.5, weight_decay=0.0),
    }
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.05)
    LayerwiseOptimizer(inner, rules, model=model, name="wise").summary()
    text = capsys.readouterr().out
    assert 'Optimizer: "wise"' in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    cells = [cell.strip() for cell in rows["body"].split("│")[1:-1]]
    assert cells == ["body", "30", "body / */bias", "0.1", "0", "0.05 / 0", "yes"]
    cells = [cell.strip() for cell in rows["head"].split("│")[1:-1]]
    assert cells[2:] == ["- / */bias", "1 / own", "0.01 / 0.5", "0.05 / 0", "no"]
    assert "Trained parameters: 26" in text
    assert "Frozen parameters: 30" in text


def test_summary_by_weight():
    lines = []
    LayerwiseOptimizer("adam", {}, model=models.sequential()).summary(lines.append, per_weight=True)
    assert "bn/gamma" in lines[0]


def test_assignments_before_the_weights_are_known():
    with pytest.raises(RuleError, match="not known yet"):
        _ = LayerwiseOptimizer("adam", {}).assignments

"""What holds for every model, every name and every input, however hostile.

CI runs one round of 12,560 cases, `make properties` a million. `PROPERTY_ROUNDS`
sets the number of rounds; the cases that held are counted at the end.
"""

import dataclasses
import enum
import fnmatch
import json
import os
import pickle
import re
import sys
import tempfile

import keras
import numpy as np
import pytest
from hypothesis import assume, given, is_hypothesis_test, seed, settings
from hypothesis import strategies as st

from keras_layerwise import (
    FreezeHyperparameters,
    FrozenHyperparameterError,
    LayerwiseOptimizer,
    Rule,
    RuleError,
    interpolate,
    load_record,
    lora_plus,
    reestimate_averages,
)
from keras_layerwise.drift.settling import first_unsettled
from keras_layerwise.model import selectors
from keras_layerwise.model.structure import sites, sites_of_variables
from keras_layerwise.optimizer.rules import Rules, as_rules, resolve
from keras_layerwise.optimizer.setting import Setting
from keras_layerwise.optimizer.storing import (
    rule_from_json,
    rule_to_json,
    setting_from_json,
    setting_to_json,
    settings_from_text,
)
from keras_layerwise.storage.record import Record, RecordError, save_record
from keras_layerwise.storage.schema import KINDS, STATISTICS, Row, SchemaError, Series
from keras_layerwise.storage.values import as_text, fingerprint, flat, plain
from keras_layerwise.tables import render

few = settings(max_examples=30)


def many(test):
    """For what asks nothing of a backend and is quick."""
    return pytest.mark.once(settings(max_examples=650)(test))


ROUNDS = int(os.environ.get("PROPERTY_ROUNDS", "1"))


def pytest_generate_tests(metafunc):
    # Rounds, since Hypothesis takes ever longer for more cases at once.
    if ROUNDS > 1 and is_hypothesis_test(metafunc.function):
        metafunc.parametrize("_round", range(ROUNDS), indirect=True)


@pytest.fixture(autouse=True)
def _round(request):
    """Other cases for each round of a property."""
    if hasattr(request, "param"):
        seed(request.node.nodeid)(request.function)


# Stand-ins for layers and weights: what `structure` and `selectors` read of them.


class Layer:
    def __init__(self, name):
        self.name = name
        self._layers = []
        self._trainable_variables = []
        self._non_trainable_variables = []

    @property
    def weights(self):
        own = [*self._trainable_variables, *self._non_trainable_variables]
        return [*own, *(weight for layer in self._layers for weight in layer.weights)]


Layer.__module__ = "keras.stand_in"


class Dense(Layer):
    pass


class Norm(Layer):
    pass


class Weight:
    def __init__(self, name, path):
        self.name = name
        self.path = path


HOSTILE = [
    "a", "A", "b", "a#2", "a#2#2", "(model)", "kernel", "bias", "", " ", ".", "..", "*", "?", "[",
    "[!", "[a-", "[z-a]", "[]]", "a*", "a/b", "/", "//", "#", "re:a", "layer a", "\x00", "\x1b[31m",
    "\n", "\t", "[bold]a[/bold]", "[/]", "<b>", "\\", "$", "%s", "{0}", "é", "e\u0301", "ﬁ", "İ",
    "ß", "\ud800", "\u202e", "\U0001f600", "None", "long" * 2500,
]  # fmt: skip
names = st.sampled_from(["a", "a#2", "b"]) | st.sampled_from(HOSTILE) | st.text(max_size=6)


class Chooser:
    """Takes options as drawn bytes say, and the first option when the bytes are used up.

    A strategy for each choice costs Hypothesis several times what the test does.
    """

    def __init__(self, choices, texts=()):
        self._choices = iter(choices)
        self._names = [["a", "a#2", "b"], HOSTILE, texts or HOSTILE]

    def __call__(self, options):
        return options[next(self._choices, 0) % len(options)]

    def name(self):
        return self(self(self._names))


choices = st.binary(min_size=256, max_size=256)
choosers = st.builds(Chooser, choices, st.lists(st.text(max_size=6), max_size=3))


def a_model(choose):
    """A tree of layers, some of them and some weights in more than one place."""
    root = Dense("root")
    layers = [root]
    for _ in range(choose(range(7))):
        layer = choose([Dense, Norm])(choose.name())
        for parent in dict.fromkeys([choose(layers), choose(layers)]):
            parent._layers.append(layer)
        layers.append(layer)
    variables = []
    for layer in layers:
        for _ in range(choose(range(4))):
            name = choose.name()
            weight = Weight(name, f"{layer.name}/{name}")
            if variables and choose(range(10)) == 9:
                weight = choose(variables)
                if weight in _own(layer):
                    continue
            variables.append(weight)
            choose([layer._trainable_variables, layer._non_trainable_variables]).append(weight)
    return root, layers


def _own(layer):
    return [*layer._trainable_variables, *layer._non_trainable_variables]


models = choosers.map(a_model)


def a_text(choose, found):
    known = [text for s in found for text in (s.path, s.layer_path, s.layer_path[-3:])]
    return choose(known) if known and choose(range(4)) else choose.name()


def a_glob(choose, found):
    one, other = a_text(choose, found), a_text(choose, found)
    return choose([f"{one}*", f"*{one}", f"{one}*{other}"])


def a_selector(choose, found, layers, kinds=8):
    match choose(range(kinds)):
        case 0:
            return a_text(choose, found)
        case 1:
            return a_glob(choose, found)
        case 2:
            pattern = re.escape(a_text(choose, found)) + choose(["", ".*"])
            return re.compile(pattern, re.DOTALL)
        case 3:
            return re.compile(choose([".*", ".*kernel", "a?", "(a|b).*"]), re.DOTALL)
        case 4:
            return choose(layers)
        case 5:
            return choose([Layer, Dense, Norm])
        case 6:
            return choose([anything_at_all, has_an_e, raises])
        case _:
            return tuple(
                a_selector(choose, found, layers, kinds=7) for _ in range(choose(range(4)))
            )


def anything_at_all(layer, weight):
    return True


def has_an_e(layer, weight):
    return "e" in weight.name


def raises(layer, weight):
    raise KeyError(weight.name)


def check_raised(error, *offending):
    """The error is one that users are promised, and names what it is about."""
    assert isinstance(error, (RuleError, TypeError, ValueError))
    assert any(text in str(error) for text in offending), (str(error), offending)


# Where weights live.


@many
@given(models)
def test_every_weight_has_one_site_and_one_path(model):
    root, _ = model
    found = sites(root)
    assert [id(s.weight) for s in found] == list(dict.fromkeys(id(w) for w in root.weights))
    assert len({s.path for s in found}) == len(found)
    owners = {id(s.layer): s.layer_path for s in found}
    assert len(set(owners.values())) == len(owners)
    for site in found:
        assert all(chain[0] is root and site.weight in _own(chain[-1]) for chain in site.chains)
        assert any(chain[-1] is site.layer for chain in site.chains)


@many
@given(models)
def test_paths_depend_on_names_and_structure_only(model):
    root, _ = model
    again = pickle.loads(pickle.dumps(root))
    assert [s.path for s in sites(root)] == [s.path for s in sites(again)]


@many
@given(st.lists(names, max_size=6))
def test_weights_without_a_model_have_paths_of_their_own(paths):
    found = sites_of_variables([Weight(path, path) for path in paths])
    assert len({s.path for s in found}) == len(paths)


# What a selector picks.


@many
@given(choosers)
def test_a_selector_picks_each_weight_once_in_order(choose):
    root, layers = a_model(choose)
    found = sites(root)
    selector = a_selector(choose, found, layers)
    try:
        picked = selectors.select(selector, found)
    except RuleError as error:
        check_raised(error, "raised KeyError")
        return
    assert picked == sorted(set(picked))
    assert set(picked) <= set(range(len(found)))
    if isinstance(selector, tuple):
        members = [selectors.select(member, found) for member in selector]
        assert picked == sorted({position for member in members for position in member})
    if isinstance(selector, Layer):
        own = [id(weight) for weight in selector.weights]
        assert picked == [i for i, s in enumerate(found) if id(s.weight) in own]
    known = {s.path for s in found} | {s.layer_path for s in found}
    near = selectors.nearest(selector, found)
    assert len(near) <= 3
    assert all(text in known or any(k.endswith(text) for k in known) for text in near)


@many
@given(choosers)
def test_a_weight_is_found_by_its_path_and_a_layer_by_its_own(choose):
    root, _ = a_model(choose)
    found = sites(root)
    for i, site in enumerate(found):
        assert i in selectors.select(site.path, found)
        assert i in selectors.select(site.layer_path, found)
        assert i in selectors.select(site.layer, found)
    if found:
        path = choose(found).path
        picked = selectors.select(re.compile(re.escape(path)), found)
        assert path in [found[i].path for i in picked]


@many
@given(choosers)
def test_text_that_is_no_name_is_a_glob(choose):
    root, _ = a_model(choose)
    found = sites_of_variables([Weight(s.path, s.path) for s in sites(root)])
    text = choose([choose.name(), a_glob(choose, found)])
    assume(not any(text == s.path or f"/{text}/" in f"/{s.layer_path}/" for s in found))
    expected = [
        i
        for i, s in enumerate(found)
        if any(c in text for c in "*?[") and fnmatch.fnmatchcase(s.path, text)
    ]
    assert selectors.select(text, found) == expected


# Which rule wins.


@many
@given(choosers)
def test_each_setting_is_the_first_rules_that_says_it_and_each_rule_has_an_effect(choose):
    root, layers = a_model(choose)
    found = sites(root)
    may_train = [i for i in range(len(found)) if choose(range(4)) < 3]
    asked = [
        (a_selector(choose, found, layers), a_rule(choose)) for _ in range(choose(range(7)))
    ]  # fmt: skip
    expected, effective, complaints = {}, [], []
    for selector, rule in asked:
        complaint = repr(selectors.label(selector)) if selector else repr(selector)
        try:
            picked = [i for i in selectors.select(selector, found) if i in may_train]
        except RuleError as error:
            complaint, picked = str(error), []
        said = {
            "rate": (rule.multiplier, rule.learning_rate),
            "decay": (rule.weight_decay, rule.decay_to),
            "frozen": rule.frozen,
        }
        said = {key: value for key, value in said.items() if value not in (None, (None, None))}
        new = [(i, key) for i in picked for key in said if (i, key) not in expected]
        expected |= {(i, key): said[key] for i, key in new}
        if new or (picked and not said):
            effective.append((selector, rule))
        else:
            complaints.append(complaint)
    if complaints:
        with pytest.raises(RuleError) as raised:
            resolve(Rules(asked), found, may_train)
        check_raised(raised.value, complaints[0])
    resolved = resolve(Rules(effective), found, may_train)
    for i in range(len(found)):
        rule = resolved[i].rule if i in resolved else Rule()
        assert expected.get((i, "rate"), (None, None)) == (rule.multiplier, rule.learning_rate)
        assert expected.get((i, "decay"), (None, None)) == (rule.weight_decay, rule.decay_to)
        assert expected.get((i, "frozen"), False) == bool(rule.frozen)


def a_rule(choose):
    rate = choose([{}, {"multiplier": 0.5}, {"learning_rate": 0.1}])
    return Rule(
        **rate,
        weight_decay=choose([None, 0.0]),
        decay_to=choose([None, "initial"]),
        frozen=choose([None, True, False]),
    )


@many
@given(
    st.dictionaries(
        names | st.integers() | st.none() | st.binary(max_size=3) | st.sampled_from([Layer, int]),
        st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=4),
        max_size=3,
    )
    | st.integers()
    | st.text(max_size=4)
    | st.lists(st.integers(), max_size=2)
)
def test_rules_are_taken_or_refused_by_name(given_rules):
    try:
        rules = as_rules(given_rules)
    except (RuleError, TypeError) as error:
        values = given_rules if isinstance(given_rules, dict) else [given_rules]
        every = [*values, *(given_rules.values() if isinstance(given_rules, dict) else ())]
        check_raised(error, *(repr(value)[:200] for value in every))
        return
    if given_rules is None:
        return
    assert [selector for selector, _ in rules] == list(given_rules)
    assert [rule for _, rule in rules] == [Rule(multiplier=float(v)) for v in given_rules.values()]


numbers = st.just(0.0) | st.floats(1.2e-38, 3e38) | st.integers(0, 10**6)
anything = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=4)
    | st.complex_numbers()
    | st.lists(st.integers(), max_size=2)
    | st.just(10**400)
)


@many
@given(anything, anything, anything, anything | st.just("initial"), anything)
def test_a_rule_holds_finite_numbers_or_is_refused(rate_factor, rate, decay, decay_to, frozen):
    given_values = {
        "multiplier": rate_factor,
        "learning_rate": rate,
        "weight_decay": decay,
        "decay_to": decay_to,
        "frozen": frozen,
    }
    try:
        rule = Rule(**given_values)
    except (RuleError, TypeError) as error:
        check_raised(error, *(repr(value) for value in given_values.values()))
        return
    for name in ("multiplier", "learning_rate", "weight_decay"):
        value = getattr(rule, name)
        assert value is None or (type(value) is float and 0 <= value < 3.5e38)
    assert rule.multiplier is None or rule.learning_rate is None
    assert rule.decay_to in (None, "initial")


# Round trips.

rates = st.floats(0, 1)
schedules = st.one_of(
    st.builds(keras.optimizers.schedules.CosineDecay, rates, st.integers(1, 9), rates),
    st.builds(keras.optimizers.schedules.ExponentialDecay, rates, st.integers(1, 9), rates),
    st.builds(
        keras.optimizers.schedules.PiecewiseConstantDecay,
        st.just([3, 5]),
        st.lists(rates, min_size=3, max_size=3),
    ),
)
plain_rules = st.builds(
    Rule,
    multiplier=st.none() | numbers,
    weight_decay=st.none() | numbers,
    decay_to=st.sampled_from([None, "initial"]),
    frozen=st.none() | st.booleans(),
) | st.builds(Rule, learning_rate=numbers, frozen=st.none() | st.booleans())
scheduled_rules = st.builds(Rule, multiplier=schedules) | st.builds(Rule, learning_rate=schedules)


def through_json(value):
    return json.loads(json.dumps(value))


@many
@given(plain_rules)
def test_a_rule_survives_json(rule):
    assert rule_from_json(through_json(rule_to_json(rule))) == rule


@few
@given(scheduled_rules)
def test_a_scheduled_rule_survives_json(rule):
    data = through_json(rule_to_json(rule))
    assert rule_to_json(rule_from_json(data)) == data
    again = rule_from_json(data)
    for name in ("multiplier", "learning_rate"):
        old, new = getattr(rule, name), getattr(again, name)
        assert type(old) is type(new)
        if old is not None:
            assert float(old(4)) == float(new(4))


stored_settings = st.builds(
    Setting,
    path=names,
    layer=names,
    name=names,
    shape=st.lists(st.integers(0, 10**9), max_size=4).map(tuple),
    label=st.none() | names,
    rule=plain_rules,
    has_slots=st.booleans(),
    first_step=st.integers(0, 2**62),
)


@many
@given(stored_settings)
def test_a_setting_survives_json(setting):
    assert setting_from_json(through_json(setting_to_json(setting))) == setting


def a_value(choose, leaves, keys, depth=3):
    """Lists and dicts in one another, with such leaves and keys."""
    match choose(range(5)) if depth else 0:
        case 3:
            return [a_value(choose, leaves, keys, depth - 1) for _ in range(choose(range(4)))]
        case 4:
            return {
                choose(keys): a_value(choose, leaves, keys, depth - 1)
                for _ in range(choose(range(4)))
            }
        case _:
            return choose(leaves)


json_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.builds(
    a_value,
    st.builds(Chooser, choices),
    st.lists(json_leaves, min_size=1, max_size=4),
    st.just(["class_name", "config", "module", "rule"]),
)


@many
@given(stored_settings, st.lists(st.tuples(st.integers(0, 11), json_values), max_size=3))
def test_a_spoilt_setting_is_read_or_refused(setting, spoils):
    data = setting_to_json(setting)
    keys = [(data, key) for key in data] + [(data["rule"], key) for key in data["rule"]]
    for which, value in spoils:
        place, key = keys[which]
        place[key] = value
    try:
        read = setting_from_json(data)
    except RuleError as error:
        check_raised(error, repr(data)[:40])
        return
    assert setting_from_json(through_json(setting_to_json(read))) == read
    assert (type(read.has_slots), type(read.first_step)) == (bool, int)


rows = st.builds(
    Row, name=names, trainable=st.booleans(), frozen=st.booleans(), parameters=st.integers(0)
)
series = st.builds(
    Series,
    kind=st.sampled_from(KINDS),
    rows=st.lists(rows, max_size=4).map(tuple),
    statistic=st.none() | st.sampled_from(STATISTICS),
    reference=st.none() | st.text(max_size=5),
)


@many
@given(series)
def test_a_series_survives_the_disk(value):
    assert Series.parse(value.to_bytes()) == value


@many
@given(series, st.data())
def test_spoilt_plugin_data_is_read_or_refused(value, data):
    content = value.to_bytes()
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + data.draw(st.binary(max_size=4)) + content[start + 1 :]
    else:
        spoilt = json.loads(content)
        key = data.draw(st.sampled_from([*spoilt, "other"]))
        spoilt[key] = data.draw(json_values)
        content = json.dumps(spoilt).encode()
    try:
        read = Series.parse(content)
    except SchemaError:
        return
    assert Series.parse(read.to_bytes()) == read


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Options:
    a: int
    b: str


user_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | names
    | st.sampled_from([Color.RED, Options(1, "x"), np.float32(0.5), np.arange(3), (1, (2.0, "x"))])
)


@many
@given(
    choosers,
    st.lists(user_leaves, min_size=1, max_size=4),
    st.lists(names | st.sampled_from([1, "1", None, "null"]), min_size=1, max_size=4),
)
def test_plain_values_are_plain_and_stay_as_they_are(choose, leaves, keys):
    values = {key: a_value(choose, leaves, keys) for key in keys}
    try:
        found = plain(values)
    except ValueError as error:
        check_raised(error, "are both stored as")
        return
    assert len(found) == len(values)
    assert plain(found) == found
    assert json.loads(json.dumps(found, allow_nan=False, ensure_ascii=False).encode()) == found
    backwards = dict(reversed(found.items()))
    assert fingerprint(found) == fingerprint(backwards)


groups = st.dictionaries(names, st.integers() | names | st.booleans(), max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all cases: a directory for each costs more than what is tested."""
    return tmp_path_factory.mktemp("record")


@many
@given(groups, groups, st.sampled_from(["running", "finished", "failed"]))
def test_a_record_survives_the_disk(folder, one, other, status):
    groups_of = ("architecture", "training", "regularization", "runtime", "user")
    record = Record(dict.fromkeys(groups_of, one), status=status, changes=[{"step": 1}])
    save_record(record, folder)
    read = load_record(folder)
    assert (read["user"], read.status, read.changes) == (one, status, record.changes)
    assert read.to_json() == through_json(record.to_json())
    assert read.fingerprint == record.fingerprint
    changed = Record({**record.values, "user": other})
    differ = record.diff(changed)
    assert bool(differ) == (
        json.dumps(flat(one), sort_keys=True) != json.dumps(flat(other), sort_keys=True)
    )


@many
@given(
    st.binary(max_size=30)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(
            ["version", "status", "architecture", "training", "regularization", "runtime", "user"]
        ),
        json_values | st.just(1) | st.just({}),
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_foreign_record_is_read_or_refused(folder, content):
    (folder / "hyperparameters.json").write_bytes(content)
    try:
        load_record(folder)
    except RecordError as error:
        check_raised(error, str(folder))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000], ids=["list", "dict"])
def test_what_is_nested_too_deeply_is_refused_as_any_other(tmp_path, content):
    (tmp_path / "hyperparameters.json").write_text(content)
    with pytest.raises(RecordError, match="can not be read"):
        load_record(tmp_path)
    with pytest.raises(SchemaError):
        Series.parse(content.encode())
    with pytest.raises(RuleError):
        settings_from_text(content)


@many
@given(names, names)
def test_a_table_shows_text_as_it_is(one, other):
    table = render("title", ["name", "#number"], [(one, other)])
    assert all(c.isprintable() for c in table.replace("\n", ""))
    if len(one) < 40 and one.isascii() and one.isprintable():
        assert one in table


# On real Keras models.

keras_names = st.sampled_from(
    [
        "a", "A", "a#2", "(model)", "kernel", "*", "[a]", "?", "re:a", "é", "\U0001f600", " ",
        "[bold]a[/bold]".replace("/", ""), "\t", "long" * 2500, "%s", "{0}", "\u202e",
    ]
)  # fmt: skip


def _dense(*layer_names):
    return keras.Sequential(
        [keras.Input((1,)), *(keras.layers.Dense(1, name=name) for name in layer_names or ("a",))]
    )


@pytest.fixture(scope="module")
def compiled():
    """A model, and another that takes the place of it restored from a checkpoint."""
    models = [_dense(), _dense()]
    for model in models:
        model.compile("sgd", "mse")
    return models


single_values = user_leaves.filter(lambda value: not isinstance(value, Options))


@few
@given(names, single_values, single_values)
def test_another_value_than_the_frozen_one_is_refused_with_both(compiled, name, old, new):
    model, restored = compiled
    with tempfile.TemporaryDirectory() as log_dir:

        def train(model, first, value):
            callback = FreezeHyperparameters(log_dir, {name: value})
            model.optimizer.iterations.assign(first)
            callback.set_model(model)
            callback.on_train_begin()
            callback.on_train_batch_begin(0)
            model.optimizer.iterations.assign(first + 1)
            callback.on_train_batch_end(0)
            callback.on_train_end()
            return load_record(log_dir)

        assert not train(model, 0, old).resumptions
        if fingerprint(plain(old)) == fingerprint(plain(new)):
            assert [found["step"] for found in train(restored, 1, new).resumptions] == [1]
            return
        with pytest.raises(FrozenHyperparameterError) as raised:
            train(restored, 1, new)
        assert load_record(log_dir).values["user"] == {name: plain(old)}
    assert as_text(plain(old)) in str(raised.value)
    assert as_text(plain(new)) in str(raised.value)


@few
@given(
    st.lists(keras_names, min_size=1, max_size=3, unique=True),
    st.lists(plain_rules | scheduled_rules, min_size=3, max_size=3),
    st.booleans(),
)
def test_an_optimizer_survives_its_config(layer_names, given_rules, is_built):
    rules = dict(zip(layer_names, given_rules, strict=False))
    model = _dense(*layer_names)
    inner = keras.optimizers.SGD(1.0, weight_decay=0.25)  # a rate at which no multiplier is lost
    optimizer = LayerwiseOptimizer(inner, rules, model=model if is_built else None)
    config = through_json(optimizer.get_config())
    again = LayerwiseOptimizer.from_config(config)
    if not is_built:
        assert again.get_config() == config
    again.build(model.trainable_variables)
    optimizer.build(model.trainable_variables)
    for a, b in zip(again.assignments, optimizer.assignments, strict=True):
        assert (a.learning_rate, a.weight_decay, a.frozen, a.rule) == (
            b.learning_rate, b.weight_decay, b.frozen, b.rule
        )  # fmt: skip


halves = st.integers(-8, 8).map(lambda number: number / 2)  # whose products are exact


@few
@given(halves, halves, halves.map(abs), halves.map(abs), st.none() | halves.map(abs))
def test_decay_pulls_a_weight_to_where_it_began(start, now, multiplier, inner, own):
    w = keras.Variable([start], name="w")
    rule = Rule(multiplier=multiplier, weight_decay=own, decay_to="initial")
    optimizer = LayerwiseOptimizer(keras.optimizers.SGD(0.25, weight_decay=inner), {"w": rule})
    optimizer.build([w])
    w.assign([now])
    optimizer.apply([keras.ops.zeros(1)], [w])
    factor = 0.25 * multiplier * (inner if own is None else own)
    assert keras.ops.convert_to_numpy(w)[0] == now - factor * (now - start)


@pytest.fixture(scope="module")
def four():
    return _dense("a", "b", "c", "left")


@few
@given(st.lists(st.tuples(halves, halves, st.floats(0, 1)), min_size=3, max_size=3), halves)
def test_interpolation_takes_each_layer_its_share_of_the_way_and_back(four, layers, other):
    model = four  # whose weights are all set anew in each case
    share = {name: alpha for name, (*_, alpha) in zip("abc", layers, strict=True)}
    ends = [*((start, end) for start, end, _ in layers), (0.0, other)]
    start, end = (
        [np.full(w.shape, ends[i // 2][side], "float32") for i, w in enumerate(model.weights)]
        for side in (0, 1)
    )
    model.set_weights(end)
    with interpolate(model, start, share):
        found = model.get_weights()
        for i, alpha in enumerate([*share.values(), 1.0]):
            between = (1 - alpha) * ends[i][0] + alpha * ends[i][1]
            for weight in found[2 * i : 2 * i + 2]:
                np.testing.assert_allclose(weight, between, rtol=1e-6, atol=1e-6)
                assert alpha not in (0, 1) or (weight == ends[i][int(alpha)]).all()
    for weight, expected in zip(model.get_weights(), end, strict=True):
        np.testing.assert_array_equal(weight, expected)


@few
@given(st.lists(st.lists(halves, min_size=2, max_size=2), min_size=1, max_size=4))
def test_averages_that_are_estimated_anew_are_those_of_the_batches(batches):
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((1,)), norm])
    found = np.array(batches, "float32")
    assert reestimate_averages(model, [batch[:, None] for batch in found]) == 1
    for average, expected in (
        (norm.moving_mean, found.mean(1)),
        (norm.moving_variance, found.var(1)),
    ):
        value = keras.ops.convert_to_numpy(average)[0]
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-5, atol=1e-5)


@many
@given(st.data())
def test_what_has_settled_stays_frozen_and_one_block_is_left(data):
    count = data.draw(st.integers(1, 12))
    numbers = st.lists(st.floats(0, 1e6), min_size=count, max_size=count)
    start = data.draw(st.integers(0, count - 1))
    found = first_unsettled(
        data.draw(numbers), data.draw(numbers), start, data.draw(st.floats(0, 100))
    )
    assert start <= found < count


@few
@given(
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(0.01, 10)),
    st.floats(0.5, 64),
)
def test_lora_plus_multiplies_any_base_for_b_alone(with_lora, base, ratio):
    model = _dense("a", "b", "c")
    for layer, has in zip(model.layers, with_lora, strict=True):
        if has:
            layer.enable_lora(2)
    found = LayerwiseOptimizer("sgd", lora_plus(model, ratio, base=base), model=model).assignments
    for entry in found:
        factor = ratio if entry.path.endswith(("_b", "bias")) else 1.0
        plain_rate = base.get(entry.path.split("/")[0], 1.0)
        assert entry.multiplier == pytest.approx(plain_rate * factor, rel=1e-6), entry.path


@few
@given(st.lists(keras_names, min_size=1, max_size=4, unique=True), st.data())
def test_real_layers_are_selected_by_hostile_names(layer_names, data):
    model = _dense(*layer_names)
    found = sites(model)
    name = data.draw(st.sampled_from(layer_names))
    optimizer = LayerwiseOptimizer("sgd", {name: Rule(frozen=True)}, model=model)
    # A layer may be called what the paths call the model.
    path = "(model)#2" if name == "(model)" else name
    assert [a.layer for a in optimizer.assignments if a.frozen] == [path, path]
    assert [found[i].layer.name for i in selectors.select(name, found)] == [name, name]
    optimizer.summary(print_fn=lambda text: None)


# Loading runs no code.


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported, and a class registered by others."""
    trace = tmp_path / "ran"
    source = f"open({str(trace)!r}, 'w')\nclass Evil:\n    from_config = print\n"
    (tmp_path / "evil_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield trace
    sys.modules.pop("evil_module", None)


MADE = []


class Touch:
    """Leaves a trace when it is made from a config."""

    @classmethod
    def from_config(cls, config):
        MADE.append(config)


EVIL = [
    {"module": "evil_module", "class_name": "Evil", "config": {}, "registered_name": None},
    {"module": "evil_module", "class_name": "Evil", "config": {}, "registered_name": "Evil"},
    {"module": "os", "class_name": "system", "config": {}, "registered_name": None},
    {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
    {"class_name": "function", "config": "evil_module", "module": "importlib"},
    {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
    {"class_name": "__tensor__", "config": {"value": 1.0, "dtype": "float32"}},
    {"module": "keras.layers", "class_name": "Lambda", "config": {}, "registered_name": None},
    {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
    {"module": "keras.optimizers.schedules", "class_name": "__init__", "config": {}},
    {
        "module": "keras.optimizers.schedules",
        "class_name": "CosineDecay",
        "config": {"initial_learning_rate": 0.1, "decay_steps": 3},
        "registered_name": "tests>Touch",
    },
    {"module": "x", "class_name": "Touch", "config": {}, "registered_name": "tests>Touch"},
    {
        "module": "keras.optimizers.schedules",
        "class_name": "LearningRateSchedule",
        "config": {"module": "evil_module", "class_name": "Evil", "config": {}},
        "registered_name": None,
    },
]


@pytest.mark.parametrize("evil", EVIL, ids=lambda evil: str(evil["class_name"]))
@pytest.mark.parametrize("field", ["multiplier", "learning_rate", "weight_decay"])
def test_a_stored_schedule_runs_no_foreign_code(trap, evil, field):
    MADE.clear()
    with keras.saving.custom_object_scope({"tests>Touch": Touch}):
        rule = {**rule_to_json(Rule()), field: evil}
        with pytest.raises((RuleError, TypeError)):
            rule_from_json(rule)
        setting = setting_to_json(Setting("a/kernel", "a", "kernel", (1, 1), None, Rule()))
        with pytest.raises(RuleError, match="Not a stored assignment"):
            setting_from_json({**setting, "rule": rule})
        config = LayerwiseOptimizer("sgd", {"a": 0.5}, model=_dense()).get_config()
        config["assignment"][0]["rule"] = rule
        with pytest.raises(RuleError):
            LayerwiseOptimizer.from_config(config)
        config = LayerwiseOptimizer("sgd", {"a": 0.5}).get_config()
        config["rules"][0]["rule"] = rule
        with pytest.raises(RuleError):
            LayerwiseOptimizer.from_config(config)
    assert not trap.exists()
    assert not MADE


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "a"},
        {"name": {}, "rule": rule_to_json(Rule())},
        {"pattern": "(", "flags": 0, "rule": rule_to_json(Rule())},
        {"pattern": "a", "flags": "x", "rule": rule_to_json(Rule())},
        {"pattern": "a", "flags": -1, "rule": rule_to_json(Rule())},
        5,
        None,
    ],
    ids=repr,
)
def test_a_spoilt_rule_of_a_config_is_refused(entry):
    config = LayerwiseOptimizer("sgd", {"a": 0.5}).get_config()
    with pytest.raises(RuleError):
        LayerwiseOptimizer.from_config({**config, "rules": [entry]})
    for name in ("rules", "assignment"):
        with pytest.raises(RuleError, match="Expected a list"):
            LayerwiseOptimizer.from_config({**config, name: entry})


def test_a_pickle_is_no_record_and_no_assignment(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = pickle.dumps(Bomb())
    (tmp_path / "hyperparameters.json").write_bytes(content)
    with pytest.raises(RecordError):
        load_record(tmp_path)
    with pytest.raises(SchemaError):
        Series.parse(content)
    model = _dense()
    optimizer = LayerwiseOptimizer("sgd", {}, model=model)
    optimizer.build(model.trainable_variables)
    store = {"assignment": np.frombuffer(content, "uint8")}
    with pytest.raises(RuleError, match="can't decode"):
        optimizer.load_own_variables(store)
    assert not (tmp_path / "ran").exists()

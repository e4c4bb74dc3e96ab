"""Who has which setting: the one owner of rules, weights, multipliers and what is frozen.

The optimizer, its slots and its updates hold the plan; nothing else keeps a
list of weights or settings of its own.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from keras_layerwise.backend import jax_updates
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.model.structure import Site, Sites
from keras_layerwise.optimizer import bare
from keras_layerwise.optimizer import rules as rules_module
from keras_layerwise.optimizer.rules import Rule, Rules
from keras_layerwise.optimizer.setting import Setting, match, merged, rate_of, setting_of


class Plan:
    """The settings of every weight that an optimizer may ever update.

    Positions are places in `weights`: all weights of the model that can ever
    train, in the model's order, and after them those that left the model. They
    do not depend on what is trainable now, so slots stored by position are
    found again.

    Args:
        rules: what was asked.

    Attributes:
        weights: see above.
        settings: what holds, by position.
        trained: positions of the weights that the optimizer was last built
            for, in that order; frozen ones are among them.
        stored: settings that were loaded and wait for the weights to be known.
        active: positions of those that train: trained, and not frozen.
        left: how many of the weights, the last ones, left the model.
        built: whether the optimizer's state was made for these weights.
        version: changes with everything that the computation depends on.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.weights: list[Any] = []
        self.settings: list[Setting] = []
        self.trained: list[int] = []
        self.stored: list[Setting] = []
        self.left = 0
        self.active: list[int] = []
        self.built = False
        self.version = 0
        self.sites = Sites()
        self._given: Any = None
        self._trainers: list[Any] = []
        self._steps_in: weakref.ref[Any] | None = None
        self._position: dict[int, int] = {}
        self._in_place = False

    # Models.

    def give(self, model: Any) -> None:
        """Notes the model that the rules are about, as its user named it."""
        self._given = weakref.ref(model)

    def train_in(self, model: Any) -> bool:
        """Notes a model whose compiled step contains the optimizer; returns whether it is new."""
        if self._trainers and self._trainers[-1]() is model:
            return False
        others = [ref for ref in self._trainers if ref() not in (None, model)]
        self._trainers = [*others, weakref.ref(model)]
        return True

    def step_in(self, model: Any) -> None:
        """Notes the model whose weights the next steps are about."""
        self._steps_in = weakref.ref(model)

    def trains_more_than(self, model: Any) -> bool:
        """Tells whether `model` is part of one that was compiled with the optimizer after it."""
        trained = {id(weight) for weight in self.weights_at(self.trained)}
        return model in self.trainers[:-1] and trained > {id(v) for v in model.trainable_variables}

    def weights_of_step(self, count: int) -> list[Any]:
        """Gives the weights that a step with `count` of them is about.

        All that are trained, or else those of the model that trains now: an inner one's,
        where an outer model trained more of them with the same optimizer.
        """
        trained = self.weights_at(self.trained)
        model = self._steps_in() if self._steps_in is not None else None
        if len(trained) == count or model is None or not self.knows(model.trainable_variables):
            return trained
        return list(model.trainable_variables)

    @property
    def model(self) -> Any:
        """The model that paths and selectors are about, None where it is unknown or gone."""
        given = self._given() if self._given is not None else None
        return given if given is not None else next(reversed(self.trainers), None)

    @property
    def trainers(self) -> list[Any]:
        """The models whose steps contain the optimizer, that of the last ``compile`` last."""
        return [model for ref in self._trainers if (model := ref()) is not None]

    @property
    def models(self) -> list[Any]:
        """Every model that is known, each once."""
        given = self._given() if self._given is not None else None
        every = [*([] if given is None else [given]), *self.trainers]
        return list({id(model): model for model in every}.values())

    # Which setting holds for which weight.

    def resolve(self, variables: Sequence[Any]) -> None:
        """Finds what holds for every weight, those in `variables` being the trained ones.

        Weights that are known keep what they have, unless the rules now say
        something else of them than they did.

        Raises:
            RuleError: where the rules or a stored assignment do not fit.
        """
        sites = self._sites_of(variables)
        trained = {id(variable) for variable in variables}
        may_train = {
            *rules_module.ever_trainable(sites),
            *(i for i, site in enumerate(sites) if id(site.weight) in trained),
        }
        here = [site for i, site in enumerate(sites) if i in may_train]
        known = {}
        if self.built:
            known = {id(w): s for w, s in zip(self.weights, self.settings, strict=True)}
            self._check_shared(sites, known)
        left = self._left(here, known)
        problems: rules_module.Problems = "raise"
        if self.built or self.stored:
            problems = "warn" if self.built else "ignore"
        found = rules_module.resolve(self.rules, sites, may_train, problems=problems)
        asked = {id(sites[i].weight): resolved for i, resolved in found.items()}
        fresh = [setting_of(site, asked.get(id(site.weight))) for site in here]
        settings = [
            merged(known.get(id(site.weight)), new) for site, new in zip(here, fresh, strict=True)
        ]
        if self.stored and not self.built:
            is_trained = [id(site.weight) in trained for site in here]
            places = match(self.stored, settings, is_trained)
            if self._in_place:
                self.check_places(places)
            settings = [
                new if i is None else self._loaded(self.stored[i], new)
                for i, new in zip(places, settings, strict=True)
            ]
        settings += [known[id(site.weight)] for site in left]
        self.sites = Sites((*sites, *left))
        self.weights = [site.weight for site in (*here, *left)]
        self.settings, self.left = settings, len(left)
        self._position = {id(weight): i for i, weight in enumerate(self.weights)}
        self.trained = [self._position[id(variable)] for variable in variables]
        self.freeze_with(selector for selector, rule in self.rules if rule.frozen)
        self._changed()

    def expect(self, stored: Sequence[Setting], in_place: bool = False) -> None:
        """Notes settings that hold as soon as their weights are known.

        Args:
            stored: what was stored.
            in_place: whether each weight must be where it was, because its
                slots are restored by position.
        """
        self.stored, self._in_place = list(stored), in_place
        self.settings, self.weights, self.trained = [], [], []

    def check_places(self, places: Sequence[int | None]) -> None:
        """Raises a `RuleError` where stored weights are in other places than here."""
        if any(place not in (None, position) for position, place in enumerate(places)):
            raise RuleError(
                "The checkpoint was written for a model with other weights, or with weights in "
                "another order, and finds slots by their place. Save and load a .keras or "
                ".weights.h5 file, which finds them by weight."
            )

    def _changed(self) -> None:
        self.active = [i for i in self.trained if not self.settings[i].frozen]
        self.version += 1

    def knows(self, variables: Iterable[Any]) -> bool:
        """Tells whether all `variables` have positions."""
        return self._position.keys() >= set(map(id, variables))

    def finish(self) -> None:
        """Notes that the optimizer's state was made for what is resolved."""
        self.built = True
        self.stored = []

    def is_resolved_for(self, variables: Sequence[Any]) -> bool:
        """Tells whether `resolve` would find the same weights of the same model again."""
        if [id(v) for v in variables] != [id(self.weights[i]) for i in self.trained]:
            return False
        if not self.settings:
            return False
        now = self._sites_of(variables)
        before = self.sites[: len(self.sites) - self.left]
        return [(id(s.weight), s.path) for s in now] == [(id(s.weight), s.path) for s in before]

    def _sites_of(self, variables: Sequence[Any]) -> Sites:
        """Finds every weight of the model that has `variables`; only these where none is known."""
        given = self._given() if self._given is not None else None
        first = [] if given is None else [given]
        for model in [*first, *reversed(self.trainers)]:
            sites = structure.sites(model)
            unknown = [v for v in variables if id(v) not in sites.by_weight]
            if not unknown:
                return sites
            if given is not None and model is given and not self.built:
                raise RuleError(
                    f"LayerwiseOptimizer was given the model {model.name!r}, but trains "
                    f"{getattr(unknown[0], 'path', unknown[0].name)!r}, which is not a weight of "
                    "it. Pass the model that is trained."
                )
        for selector, _ in self.rules:
            if selectors.needs_model(selector):
                raise RuleError(
                    f"The rule for {selectors.label(selector)!r} can be answered only where the "
                    "layers are known. Pass model=... to LayerwiseOptimizer, or train the model "
                    "by fit or train_on_batch."
                )
        return structure.sites_of_variables(variables)

    def _check_shared(self, sites: Sequence[Site], known: Mapping[int, Setting]) -> None:
        """Raises a `RuleError` where the optimizer was built for none of the weights."""
        if known and not any(id(site.weight) in known for site in sites):
            raise RuleError(
                f"This optimizer was built for {len(known)} weights, from "
                f"{self.settings[0].path!r} on, and the model that it is to train now has none of "
                "them: it is another model. Make an optimizer of its own for it."
            )

    def _left(self, here: Sequence[Site], known: dict[int, Setting]) -> list[Site]:
        """Weights that left the model, as a head that was replaced, and still hold slots."""
        now = {id(site.weight) for site in here}
        return [
            site
            for site in self.sites
            if id(site.weight) not in now
            and id(site.weight) in known
            and known[id(site.weight)].has_slots
        ]

    def _loaded(self, stored: Setting, found: Setting) -> Setting:
        """Gives the stored setting, under the paths that its weight has now."""
        stored = bare.beside(stored, found.bare)
        if self.model is None:  # the stored paths are better than the variables' own
            return stored
        return replace(stored, path=found.path, layer=found.layer)

    # Asking and changing.

    def known_settings(self) -> list[Setting]:
        """Tells what holds, by position.

        Raises:
            RuleError: while the weights are not known.
        """
        if not self.settings:
            raise RuleError(
                "The weights are not known yet. Pass model=... with a model that is built, or "
                "train one step first."
            )
        return self.settings

    def select(self, selector: Any) -> list[int]:
        """Gives the positions of what `selector` picks.

        Raises:
            RuleError: where nothing is selected, or nothing that can ever train.
        """
        self.known_settings()
        if selectors.needs_model(selector) and not any(site.chains for site in self.sites):
            raise RuleError(
                f"{selectors.label(selector)!r} can be answered only where the layers are known. "
                "Pass model=... to LayerwiseOptimizer."
            )
        may_train = [i for i, s in enumerate(self.sites) if id(s.weight) in self._position]
        asked = Rules([(selector, Rule(frozen=True))])
        found = rules_module.resolve(asked, self.sites, may_train)
        return sorted(self._position[id(self.sites[i].weight)] for i in found)

    def freeze_with(self, asked: Iterable[Any]) -> None:
        """Notes what follows the parts of an outline that are frozen by these selectors."""
        bare.note(self.settings, self._position, self.sites, asked)

    def change(self, positions: Iterable[int], **changes: Any) -> None:
        """Changes the rule of weights, as `frozen` or `multiplier`."""
        for position in positions:
            setting = self.settings[position]
            self.settings[position] = replace(setting, rule=replace(setting.rule, **changes))
        self._changed()

    def check_constant(self, positions: Iterable[int]) -> None:
        """Raises a `RuleError` where a weight has a rate or a schedule of its own."""
        for setting in (self.settings[position] for position in positions):
            if setting.is_scheduled:
                kind = "a schedule" if setting.rule.learning_rate is None else "its own rate"
                raise RuleError(
                    f"{setting.path!r} has {kind}; a multiplier would have no effect on it. "
                    "Select other weights."
                )

    def idle(self, positions: Sequence[int]) -> list[int]:
        """Gives those of `positions` whose weights do not train now.

        Raises:
            RuleError: where all of them train.
        """
        found = [position for position in positions if position not in set(self.active)]
        if not found:
            paths = rules_module.some(self.settings[position].path for position in positions)
            raise RuleError(
                f"The slots of {paths} are in use: these weights train. Freeze them first, or "
                "make their layers not trainable and compile again."
            )
        return found

    def note_slots(self, positions: Iterable[int], held: bool, step: int = 0) -> None:
        """Notes that weights have slots since `step`, or have none."""
        for position in positions:
            self.settings[position] = replace(
                self.settings[position], has_slots=held, first_step=step
            )

    def take_over(self, stored: Sequence[Setting]) -> list[int | None]:
        """Makes stored settings those that hold; the stored place by position.

        Raises:
            RuleError: where they were made for other weights.
        """
        trained = set(self.trained)
        is_trained = [i in trained for i in range(len(self.settings))]
        places = match(stored, self.settings, is_trained)
        for position, place in enumerate(places):
            if place is not None:
                own = self.settings[position]
                self.settings[position] = replace(
                    stored[place],
                    path=own.path,
                    layer=own.layer,
                    has_slots=own.has_slots or stored[place].has_slots,
                    asked=own.asked,
                    bare=bare.beside(own, stored[place].bare).bare,
                )
        self._changed()
        return places

    @property
    def missing_slots(self) -> list[int]:
        """The positions of the weights that are to train and have no slots."""
        return [position for position in self.active if not self.settings[position].has_slots]

    def weights_at(self, positions: Iterable[int]) -> list[Any]:
        """Gives the weights at `positions`."""
        return [self.weights[position] for position in positions]

    def trained_settings(self) -> Iterator[tuple[int, Setting]]:
        """Gives the position and setting of each weight that the optimizer was built for."""
        self.known_settings()
        return ((position, self.settings[position]) for position in self.trained)

    # Rates.

    def multipliers(self) -> Any:
        """Gives the constant multipliers by position, 1 where there is none."""
        values = [setting.rule.multiplier for setting in self.settings]
        return np.asarray([m if isinstance(m, float) else 1.0 for m in values], dtype="float32")

    def rates(self, multipliers: Any, learning_rate: Any, step: Any) -> tuple[Any, ...]:
        """Gives each weight's rate at `step`, by position.

        Args:
            multipliers: of shape ``(weights,)``; a variable, so that a change
                needs no new trace.
            learning_rate: the inner optimizer's.
            step: number of steps so far.
        """
        dtype = multipliers.dtype
        learning_rate = ops.cast(learning_rate, dtype)
        rates = jax_updates.part(ops.multiply(multipliers, learning_rate), len(self.settings), step)
        return tuple(
            ops.cast(rate_of(setting.rule, learning_rate, step), dtype)
            if setting.is_scheduled
            else rate
            for rate, setting in zip(rates, self.settings, strict=True)
        )

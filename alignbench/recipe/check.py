"""Checks a recipe as it was read: collects every problem at once, each with its place and a fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from alignbench import plugins
from alignbench.api.config import NAME, TOTALS, NamedMethod, NamedReward, NamedSource, Settings
from alignbench.api.method import Method
from alignbench.errors import AlignbenchError, PluginError, Problem
from alignbench.plugins import Group
from alignbench.recipe.configs import build, group_of, named_in, validated
from alignbench.recipe.explain import explain, got, suggest
from alignbench.recipe.graph import by_principles, find_circle, labels_named, overlap, reads_weights
from alignbench.recipe.named import resolve
from alignbench.recipe.schema import (
    BASE,
    FILE,
    GGUF,
    START,
    Named,
    Recipe,
    Relabelled,
    Training,
    own_fields,
)
from alignbench.recipe.yaml import Document, Route, spell
from alignbench.rows import Row, Text, can_derive


class Check:
    """Collects what is wrong with one document."""

    def __init__(self, document: Document, root: Path):
        self.document = document
        self.root = root
        self.problems: list[Problem] = []
        self.missing: set[tuple[Group, str]] = set()
        self.views: dict[str, type[Row] | None] = {}
        """What the rows of each source can be seen as; None: known only once they are read."""
        self.only_plugins = True

    def problem(self, route: Route, what: str, fix: str = "", *, key: bool = False) -> None:
        self.only_plugins = False
        self.problems.append(self.document.place(route, key=key).problem(what, fix, spell(route) or None))

    def recipe(self) -> Recipe | None:
        data = self.document.data
        if not isinstance(data, dict):
            self.problem((), f"expected a recipe, got {got(data)}", "write at least model, data and methods")
            return None
        recipe = self.valid(Recipe, data, ())
        for route, text in _texts(data):
            # Sources have their own words for a file that is not there.
            if route[0] != "data" and re.match(r"\.\.?/", text) and "\n" not in text:
                self.exists(route, text)
        for group, route, value in _named(data):
            self.named(group, route, value)
        self.source(data.get("data"))
        blocks = data.get("methods")
        if isinstance(blocks, dict):
            for label, block in blocks.items():
                if isinstance(block, dict | None):
                    self.block(label, block or {})
            self.starts(blocks)
        return recipe

    def exists(self, route: Route, text: str) -> None:
        if not (self.root / text).exists():
            where = f"relative paths start from the recipe's folder, {self.root.resolve()}"
            self.problem(route, f"there is no '{text}'", where)
        elif route == ("model", "id") and not self.holds_model(self.root / text):
            what = f"'{text}' holds no config.json, so it is not a model"
            self.problem(route, what, "name a model's folder, or a GGUF file")

    def holds_model(self, path: Path) -> bool:
        """Whether a path is a GGUF file, or a folder with a model."""
        if path.name.endswith(GGUF):
            return path.is_file()
        return self.written(("model", "gguf"), None) is not None or (path / "config.json").is_file()

    def source(self, data: Any) -> None:
        """Check the policy and the judge of relabelled comparisons."""
        source = data.get("source", FILE) if isinstance(data, dict) else FILE
        if source == FILE:
            return
        with suppress(ValidationError):  # a problem of the recipe's own check
            made = Relabelled.model_validate_json(json.dumps(source), strict=True)
            self.builds_on("data.source", ("data", "source"), made)
            blocks = self.written(("methods",), {})
            if isinstance(blocks, dict) and made.policy not in (START, BASE, *blocks):
                route: Route = (
                    ("data", "source", "policy") if isinstance(source, dict) else ("data", "source")
                )
                fix = suggest(made.policy, [*blocks, BASE, START, FILE], "it can be")
                self.problem(route, f"there is no label '{made.policy}'", fix)

    def block(self, label: str, block: Mapping[str, Any]) -> None:
        """Check a method's overrides of the training, its own fields, and the rows it reads."""
        route: Route = ("methods", label)
        if isinstance(block.get("training"), dict):
            self.valid(Training, block["training"], (*route, "training"))
        name = block.get("method", label)
        # A label that is not a name, or is taken, is a problem already; without a method it names none either.
        if not isinstance(name, str) or ("method" not in block and not re.fullmatch(NAME, name)):
            return
        if name == label == BASE:
            return
        own = (*route, "config") if "config" in block else route
        named_by = (*route, "method") if "method" in block else route
        kind = self.plugin("methods", name, named_by)
        if kind is None:
            return
        made = self.valid(kind.Config, own_fields(block), own)
        if made is not None:
            self.builds_on(label, own, made)
            self.measures(label, block, name, kind, made)
        for view in kind.consumes if made is None else kind(made).reads():
            source = "pretraining" if view is Text else "train"
            has = self.views.get(source)
            if view is Text and source not in self.views:
                self.problem(
                    route, f"'{name}' reads plain text", "name a source in data.pretraining", key=True
                )
            elif view is not Text and has is not None and not can_derive(has, view):
                what = f"'{name}' reads {view.__name__} rows, which cannot be made of {has.__name__} rows"
                self.problem(route, what, "name other data in data.train", key=True)

    def measures(
        self, label: str, block: Mapping[str, Any], name: str, kind: type[Method], config: BaseModel
    ) -> None:
        """Check that a method, and what it builds on, can measure the unit of its budget."""
        mine = isinstance(block.get("budget"), dict)
        budget = block["budget"] if mine else self.written(("budget",), {})
        route: Route = ("methods", label, "budget") if mine else ("budget",)
        for unit in TOTALS if isinstance(budget, dict) else ():
            if budget.get(unit) is None:
                continue
            found = [(f"the method '{name}'", kind), *_counted(config)]
            for who, one in found:
                if unit in one.uncounted:
                    what = f"{who} cannot count {unit}, which is the budget of '{label}'"
                    others = [other for other in ("epochs", *TOTALS) if other not in one.uncounted]
                    self.problem((*route, unit), what, f"set a budget in {', '.join(others)}", key=True)

    def builds_on(self, label: str, own: Route, config: BaseModel) -> None:
        """Check the plugins that a method's fields name, and that no judge both trains and evaluates."""
        for route, one in named_in(config):
            place = (*own, *route)
            self.named(group_of(one), place, self.written(place, one))
            if (group_of(one), one.name) in self.missing or isinstance(one, NamedReward | NamedSource):
                continue
            if isinstance(one, NamedMethod):
                with suppress(ValidationError):  # a problem of the check of its name
                    _, inner = build("methods", one.name, one.config)
                    self.builds_on(label, (*place, one.name), inner)
                continue
            if not plugins.load("judges", one.name).trains:
                allowed = self.written(("evaluation", "allow"), [])
                if not isinstance(allowed, list) or one.name not in allowed:
                    what = f"the judge '{one.name}' is an evaluation judge and never enters training"
                    fix = f"learn from another judge, or allow it: evaluation.allow: [{one.name}]"
                    self.problem(place, what, fix)
            elif alike := self.evaluation_judges_like(one):
                what = f"'{label}' learns from the judge '{one.name}', which also evaluates"
                fix = f"evaluate with another judge, or allow it: evaluation.allow: [{', '.join(alike)}]"
                self.problem(place, what, fix)
        for route, judge in by_principles(config):
            if ("judges", judge.name) not in self.missing:
                self.principles(label, (*own, *route), judge)

    def principles(self, label: str, route: Route, judge: Named) -> None:
        """Check that the principle drawn for a comparison reaches the judge."""
        with suppress(ValidationError):  # a problem of the check of its name
            kind, config = build("judges", judge.name, judge.config)
            ignored = kind.check_principles(config)
            if ignored is not None:
                inside = (*route, judge.name, ignored.field) if ignored.field else route
                what = f"'{label}' draws a principle for each comparison, and {ignored.what}"
                self.problem(inside, what, f"{ignored.fix}, or leave `constitution` out")

    def written(self, route: Route, default: Any) -> Any:
        """Return what stands in the recipe at `route`; the default where nothing does."""
        value: Any = self.document.data
        for part in route:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def evaluation_judges_like(self, one: Named) -> tuple[str, ...]:
        """Return the judges of the evaluation that read as `one` does, and are not allowed to."""
        try:
            recipe = Recipe.model_validate(self.document.data)
            return overlap(recipe, one)
        except (ValidationError, PluginError):
            return ()  # a problem of the check there

    def named(self, group: Group, route: Route, value: Any) -> None:
        """Check a plugin given as `name` or `{name: {field: value}}`."""
        try:
            one = Named.model_validate(value)
        except ValidationError:
            return  # a problem of the recipe's own check
        own = (*route, one.name) if (*route, one.name) in self.document.values else route
        name, config = one.name, one.config
        try:
            if group == "data":
                name, config = resolve(one, self.root)
            kind = self.plugin(group, name, own)
            if kind is None:
                return
            made = self.valid(kind.Config, config, own)
            if made is not None:
                if group != "methods":  # what builds on a method checks it
                    self.builds_on(name, own, made)
                if route[:2] == ("evaluation", "judges") and (unfit := kind.check_evaluation(made)):
                    self.problem((*own, unfit.field) if unfit.field else own, unfit.what, unfit.fix)
                if route[:2] == ("evaluation", "judges") and self.written(("sweep",), None) is not None:
                    self.valid(kind.Config, {**config, **kind.tuning_judge(made)}, own)
            if group == "data" and made is not None:
                self.views[str(route[-1])] = kind(made, root=self.root).view()
        except AlignbenchError as error:
            self.only_plugins &= isinstance(error, PluginError)
            place = self.document.place(own)
            self.problems += [place.problem(one.what, one.fix, spell(own)) for one in error.problems]

    def plugin(self, group: Group, name: str, named_by: Route) -> Any:
        """Return the class of a plugin; None, and a problem, where there is none."""
        try:
            return plugins.load(group, name)
        except PluginError as error:
            if (group, name) not in self.missing:  # one broken plugin, one problem
                place = self.document.place(named_by, key=named_by[-1] == name)
                self.problems += [place.problem(one.what, one.fix, spell(named_by)) for one in error.problems]
            self.missing.add((group, name))
        return None

    def starts(self, blocks: Mapping[str, Any]) -> None:
        """Check that every start, and every label a field names, is there, and that none goes in a circle."""
        needs, begins = {}, {}
        for label, block in blocks.items():
            block = block if isinstance(block, dict) else {}
            named = [(("start",), self.document.data.get("start", BASE))]
            if "start" in block:
                named = [(("methods", label, "start"), block["start"])]
            begins[label] = named[0][1]
            named += self.labels(label, block)
            named = [(route, start) for route, start in named if isinstance(start, str) and start != BASE]
            needs[label] = tuple(start for _, start in named if start in blocks)
            for route, start in named:
                if start not in blocks:
                    fix = suggest(start, [*blocks, BASE], "it can be")
                    self.problem(route, f"there is no label '{start}'", fix)
                elif (
                    route[-1:] != ("start",)
                    and reads_weights(self.method(label, blocks).Config, str(route[-1]))
                    and self.decodes(start, blocks)
                ):
                    what = f"'{label}' reads the weights of '{start}', which is a decoder and has none"
                    self.problem(route, what, "name the label that the decoder starts from")
            route, start = next(iter(named), ((), BASE))
            if route[-1:] == ("start",) and self.decodes(start, blocks):
                what = "which is a decoder and has no weights of its own"
                fix = "let it start from the label that the decoder starts from"
                if not self.decodes(label, blocks):
                    self.problem(route, f"'{label}' cannot train from '{start}', {what}", fix)
                elif not self.method(label, blocks).on_decoders:
                    self.problem(route, f"'{label}' cannot decode '{start}', {what}", fix)
        if circle := find_circle(needs):
            where, way = ("methods", circle[0]), " -> ".join(circle)
            if any(begins[label] == needed for label, needed in pairwise(circle)):
                self.problem(where, f"starts from itself: {way}", "let one of them say start: base", key=True)
            else:
                self.problem(where, f"needs itself: {way}", "let one of them name another label", key=True)

    def decodes(self, label: str, blocks: Mapping[str, Any]) -> bool:
        """Whether a label's method returns a policy of its own kind, and no weights."""
        return self.method(label, blocks).restore is not Method.restore

    def method(self, label: str, blocks: Mapping[str, Any]) -> type[Method]:
        """Return the class of a label's method; Method itself where there is none."""
        block = blocks.get(label)
        name = block.get("method", label) if isinstance(block, dict) else label
        try:
            return plugins.load("methods", name) if label in blocks and isinstance(name, str) else Method
        except PluginError:
            return Method

    def labels(self, label: str, block: Mapping[str, Any]) -> list[tuple[Route, Any]]:
        """Return where the block's own fields name other labels."""
        name = block.get("method", label)
        if not isinstance(name, str):
            return []
        try:
            config = plugins.load("methods", name).Config
        except PluginError:
            return []
        fields = own_fields(block)
        named = labels_named(config, fields) if isinstance(fields, dict) else ()
        return [(("methods", label, field), other) for field, other in named]

    def valid(self, model: type[BaseModel], data: Any, route: Route) -> Any:
        """Return `data` as `model`, strictly; None, and problems, where it is none."""
        try:
            text = json.dumps(data)
            return (
                validated(model, text)
                if issubclass(model, Settings)
                else model.model_validate_json(text, strict=True)
            )
        except ValidationError as error:
            for one in explain(error, model, self.document, route):
                self.problem(one.route, one.what, one.fix, key=one.at_key)
        return None


def _counted(config: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield the judges and methods that a method's fields name, those that these name included, with their class."""
    for _, one in named_in(config):
        if isinstance(one, NamedSource):
            continue
        with suppress(ValidationError, PluginError):  # a problem of the check of its name
            group = group_of(one)
            kind, inner = build(group, one.name, one.config)
            if hasattr(kind, "uncounted"):  # a reward function computes nothing that is counted
                yield f"the {group.removesuffix('s')} '{one.name}'", kind
            yield from _counted(inner)


def _named(data: Mapping[str, Any]) -> Iterator[tuple[Group, Route, Any]]:
    """Yield every place where a recipe names a plugin that is not a method."""
    sources = data.get("data")
    if isinstance(sources, dict):
        for name in ("train", "validation", "test", "pretraining"):
            if name in sources:
                yield "data", ("data", name), sources[name]
        yield from _list_of("filters", ("data", "filters"), sources.get("filters"))
    evaluation = data.get("evaluation")
    if isinstance(evaluation, dict):
        yield from _list_of("judges", ("evaluation", "judges"), evaluation.get("judges"))
        yield from _list_of("metrics", ("evaluation", "metrics"), evaluation.get("metrics"))


def _list_of(group: Group, route: Route, values: Any) -> Iterator[tuple[Group, Route, Any]]:
    for index, value in enumerate(values if isinstance(values, list) else ()):
        yield group, (*route, index), value


def _texts(data: Any, route: Route = ()) -> Iterator[tuple[Route, str]]:
    if isinstance(data, str):
        yield route, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _texts(value, (*route, key))

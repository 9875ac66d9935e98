"""Makes a recipe of a file: every problem at once, each with its place and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alignbench import plugins
from alignbench.api.config import NAME, NamedMethod, NamedSource
from alignbench.api.method import Method
from alignbench.errors import AlignbenchError, PluginError, Problem, RecipeError
from alignbench.plugins import Group
from alignbench.recipe import yaml
from alignbench.recipe.configs import build
from alignbench.recipe.graph import (
    by_principles,
    complete,
    find_circle,
    group_of,
    labels_named,
    named_in,
    overlap,
)
from alignbench.recipe.named import resolve
from alignbench.recipe.schema import (
    BASE,
    FILE,
    START,
    Loaded,
    MethodBlock,
    Named,
    Recipe,
    Relabelled,
    Training,
    own_fields,
)
from alignbench.recipe.yaml import Document, Place, Route, spell
from alignbench.rows import Row, Text, can_derive


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read, override (`a.b=c`) and check a recipe; plugins are imported only where it names them.

    Raises RecipeError, PluginError where nothing but plugins is wrong, or SecurityError, with all problems.
    """
    misread: list[Problem] = []
    text, document = yaml.read(path, misread)
    for override in overrides:
        _override(document, override)
    check = _Check(document, path.parent)
    recipe = check.recipe()
    if misread:
        # What could not be read is not also a wrong value.
        said = {(problem.line, problem.column) for problem in misread}
        check.problems = [one for one in check.problems if (one.line, one.column) not in said] + misread
        check.only_plugins = False
    if recipe is None or check.problems:
        problems = sorted(set(check.problems), key=lambda problem: (problem.line or 0, problem.column or 0))
        raise (PluginError if check.only_plugins else RecipeError)(problems)
    return Loaded(complete(recipe), path, text, tuple(overrides))


class _Check:
    """Collects what is wrong with one document."""

    def __init__(self, document: Document, root: Path):
        self.document = document
        self.root = root
        self.problems: list[Problem] = []
        self.missing: set[tuple[Group, str]] = set()
        self.views: dict[str, type[Row] | None] = {}
        """What the rows of each source can be seen as; None where only reading them tells."""
        self.only_plugins = True

    def problem(self, route: Route, what: str, fix: str = "", *, key: bool = False) -> None:
        self.only_plugins = False
        self.problems.append(self.document.place(route, key=key).problem(what, fix, spell(route) or None))

    def recipe(self) -> Recipe | None:
        said = self.document.data
        if not isinstance(said, dict):
            self.problem((), f"expected a recipe, got {_got(said)}", "write at least model, data and methods")
            return None
        recipe = self.valid(Recipe, said, ())
        for route, text in _texts(said):
            # Sources have their own words for a file that is not there.
            if route[0] != "data" and re.match(r"\.\.?/", text) and "\n" not in text:
                self.exists(route, text)
        for group, route, value in _named(said):
            self.named(group, route, value)
        self.source(said.get("data"))
        blocks = said.get("methods")
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
        elif route == ("model", "id") and not (self.root / text / "config.json").is_file():
            self.problem(route, f"'{text}' holds no config.json, so it is no model", "name a model's folder")

    def source(self, data: Any) -> None:
        """Check who writes the comparisons anew, and who compares."""
        source = data.get("source", FILE) if isinstance(data, dict) else FILE
        if source == FILE:
            return
        with suppress(ValidationError):  # said by the recipe's own check
            made = Relabelled.model_validate_json(json.dumps(source), strict=True)
            self.builds_on("data.source", ("data", "source"), made)
            blocks = self.said(("methods",), {})
            if isinstance(blocks, dict) and made.policy not in (START, BASE, *blocks):
                route: Route = (
                    ("data", "source", "policy") if isinstance(source, dict) else ("data", "source")
                )
                fix = _suggest(made.policy, [*blocks, BASE, START, FILE], "it can be")
                self.problem(route, f"there is no label '{made.policy}'", fix)

    def block(self, label: str, block: Mapping[str, Any]) -> None:
        """Check a method's overrides of the training, its own fields, and the rows it reads."""
        route: Route = ("methods", label)
        if isinstance(block.get("training"), dict):
            self.valid(Training, block["training"], (*route, "training"))
        name = block.get("method", label)
        # A label that is no name, or is taken, has been told; without a method it names none either.
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

    def builds_on(self, label: str, own: Route, config: BaseModel) -> None:
        """Check the plugins that a method's fields name, and that no judge both trains and evaluates."""
        for route, one in named_in(config):
            place = (*own, *route)
            self.named(group_of(one), place, self.said(place, one))
            if (group_of(one), one.name) in self.missing or isinstance(one, NamedSource):
                continue
            if isinstance(one, NamedMethod):
                with suppress(ValidationError):  # said by the check of its name
                    _, inner = build("methods", one.name, one.config)
                    self.builds_on(label, (*place, one.name), inner)
                continue
            if not plugins.load("judges", one.name).trains:
                allowed = self.said(("evaluation", "allow"), [])
                if not isinstance(allowed, list) or one.name not in allowed:
                    what = f"the judge '{one.name}' is an evaluation judge and never enters training"
                    self.problem(place, what, "let the method learn from another judge")
            elif yardsticks := self.yardsticks_like(one):
                what = f"'{label}' learns from the judge '{one.name}', which also evaluates"
                fix = f"evaluate with another judge, or allow it: evaluation.allow: [{', '.join(yardsticks)}]"
                self.problem(place, what, fix)
        for route, judge in by_principles(config):
            if ("judges", judge.name) not in self.missing:
                self.hears(label, (*own, *route), judge)

    def hears(self, label: str, route: Route, judge: Named) -> None:
        """Check that the principle drawn for a comparison reaches the judge."""
        with suppress(ValidationError):  # said by the check of its name
            kind, config = build("judges", judge.name, judge.config)
            lost = kind.check_principles(config)
            if lost is not None:
                inside = (*route, judge.name, lost.field) if lost.field else route
                what = f"'{label}' draws a principle for each comparison, and {lost.what}"
                self.problem(inside, what, f"{lost.fix}, or leave `constitution` out")

    def said(self, route: Route, default: Any) -> Any:
        """Return what the recipe itself says at `route`, or the default where it is silent."""
        value: Any = self.document.data
        for part in route:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def yardsticks_like(self, one: Named) -> tuple[str, ...]:
        """Return the judges of the evaluation that read as `one` does, and are not allowed to."""
        try:
            recipe = Recipe.model_validate(self.document.data)
            return overlap(recipe, one)
        except (ValidationError, PluginError):
            return ()  # what is wrong there is said there

    def named(self, group: Group, route: Route, value: Any) -> None:
        """Check a plugin given as `name` or `{name: {field: value}}`."""
        try:
            one = Named.model_validate(value)
        except ValidationError:
            return  # the recipe's own check has said so
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
                if group != "methods":  # what builds on a method looks into it
                    self.builds_on(name, own, made)
                if route[:2] == ("evaluation", "judges") and self.said(("sweep",), None) is not None:
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
        needs = {}
        for label, block in blocks.items():
            block = block if isinstance(block, dict) else {}
            named = [(("start",), self.document.data.get("start", BASE))]
            if "start" in block:
                named = [(("methods", label, "start"), block["start"])]
            named += self.labels(label, block)
            named = [(route, start) for route, start in named if isinstance(start, str) and start != BASE]
            needs[label] = tuple(start for _, start in named if start in blocks)
            for route, start in named:
                if start not in blocks:
                    fix = _suggest(start, [*blocks, BASE], "it can be")
                    self.problem(route, f"there is no label '{start}'", fix)
            route, start = next(iter(named), ((), BASE))
            if route[-1:] == ("start",) and self.decodes(start, blocks):
                what = "which is a decoder and has no weights of its own"
                fix = "let it start from the label below that decoder"
                if not self.decodes(label, blocks):
                    self.problem(route, f"'{label}' cannot train from '{start}', {what}", fix)
                elif not self.method(label, blocks).on_decoders:
                    self.problem(route, f"'{label}' cannot decode '{start}', {what}", fix)
        if circle := find_circle(needs):
            said = f"starts from itself: {' -> '.join(circle)}"
            self.problem(("methods", circle[0]), said, "let one of them say start: base", key=True)

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
            return model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            self.explain(error.errors(include_url=False), model, route)
        return None

    def explain(self, errors: Sequence[ErrorDetails], model: type[BaseModel], top: Route) -> None:
        """Turn pydantic's errors into problems; several about one value (of a union) become one."""
        places: dict[tuple[Route, bool], list[ErrorDetails]] = {}
        for error in errors:
            places.setdefault((self.route(error, top), error["loc"][-1:] == ("[key]",)), []).append(error)
        for (route, at_key), same in places.items():
            known = _fields(model, route[len(top) : -1])
            field = known.get(str(route[-1])) if len(route) > len(top) else None
            meaning = f"it is: {field.description.rstrip('.')}" if field and field.description else ""
            if same[0]["type"] == "extra_forbidden":
                own = [*known, *(name for name in MethodBlock.model_fields if name != "config")]
                names = own if route[:1] == ("methods",) and len(route) == 3 else list(known)
                self.problem(route, "unknown", _suggest(str(route[-1]), names, "known here:"), key=True)
            elif same[0]["type"] == "missing":
                self.problem(route, "is missing", f"add it; {meaning}" if meaning else "add it")
            else:
                what, fix = _say(same)
                self.problem(route, what, fix or meaning, key=at_key)

    def route(self, error: ErrorDetails, top: Route) -> Route:
        """Return where in the file an error lies; pydantic's own path also names the branches of unions."""
        route = top
        for part in error["loc"]:
            if (*route, part) in self.document.values:
                route = (*route, part)
        return (*route, error["loc"][-1]) if error["type"] == "missing" else route


def _named(data: Mapping[str, Any]) -> Iterator[tuple[Group, Route, Any]]:
    """Yield every place where a recipe names a plugin that is no method."""
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


def _fields(model: type[BaseModel], route: Route) -> dict[str, FieldInfo]:
    """Return the fields that a model knows at `route`; a mapping or list has those of what it holds."""
    models = [model]
    for part in route:
        inside = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        if inside:
            models = [found for kind in inside for found in _models(kind)]
    return {name: field for one in models for name, field in one.model_fields.items()}


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "none_required": "nothing",
    "too_short": "a list that is not empty",
}
_BOUND = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _say(errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    """Say what is wrong with one value, and how to fix it, as a person would."""
    value = errors[0]["input"]
    # A branch of a union that has the right type and the wrong value says more than the others.
    bounds = [error for error in errors if error["type"] in _BOUND]
    if bounds:
        name, words = _BOUND[bounds[0]["type"]]
        bound = bounds[0].get("ctx", {})[name]
        said = f"{bound:g}" if isinstance(bound, float) else str(bound)
        return f"must be {words} {said}, got {_got(value)}", ""
    kind = errors[0]["type"]
    if kind == "value_error":
        what, _, fix = errors[0]["msg"].removeprefix("Value error, ").partition("; ")
        return what, fix
    if kind == "string_pattern_mismatch":
        what = f"'{value}' cannot be a name" if isinstance(value, str) else "this cannot be a name"
        return what, "use small letters, digits, '.', '_' and '-', 64 at most, a letter or digit first"
    if kind == "start" and isinstance(value, dict) and len(value) == 1:
        (name,) = value
        what = (
            f"{name}: unknown; a start is 'base', a label, {{adapter: path-or-id}} or {{model: path-or-id}}"
        )
        return what, _suggest(str(name), ["adapter", "model"], "known here:")
    if kind in ("too_short", "too_long"):
        kind_of = "list" if isinstance(value, list) else "block of keys"
        return f"a {kind_of} is {'empty' if not value else kind.replace('_', ' ')}", "add to it"
    wanted, options = [], []
    for error in errors:
        if error["type"] == "literal_error":
            options += re.findall(r"'([^']*)'", error.get("ctx", {})["expected"])
        elif error["type"] in _EXPECTED:
            wanted.append(_EXPECTED[error["type"]])
        else:
            wanted.append(error["msg"].removeprefix("expected ").removeprefix("Input should be "))
    fix = "put it in quotes" if wanted == ["a text"] and isinstance(value, int | float) else ""
    if isinstance(value, str):
        near = get_close_matches(value, options, 1)
        number = isinstance(yaml.plain(value), int | float)
        if near:
            fix = f"did you mean '{near[0]}'?"
        elif number and "a text" not in wanted:
            fix = "remove the quotes"
    said = " or ".join(dict.fromkeys([*(repr(option) for option in options), *wanted]))
    return f"expected {said}, got {_got(value)}", fix


def _got(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "block of keys"
        return f"a {kind}" if value else f"an empty {kind}"
    return str(value)[:60]


def _suggest(name: str, known: Sequence[str], otherwise: str) -> str:
    near = get_close_matches(name, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise} {', '.join(known) or 'nothing'}"


def _override(document: Document, override: str) -> None:
    """Set one value of a document, as `--set a.b=c` says. Raises RecipeError where it cannot be set."""
    place = Place(f"--set {override}")
    name, sign, text = override.partition("=")
    if not (name and sign):
        raise RecipeError(place.problem("no value is set", "write it as --set a.b=c"))
    try:
        made = yaml.parse(text, place.file) if text.strip() else Document(None, {}, {(): place})
    except RecipeError as error:
        raise RecipeError(
            [replace(one, line=None, column=None, field=name) for one in error.problems]
        ) from None
    route: Route = ()
    data: Any = document.data
    parts = name.split(".")
    while parts:
        key, rest = _step(data, parts)
        if key is None:
            what = f"{spell(route) or 'the recipe'} is {_got(data)} and has no '{parts[0]}'"
            raise RecipeError(place.problem(what, "set a key that can be there", name))
        route = (*route, key)
        if not rest:
            data[key] = made.data
        elif (data.get(key) if isinstance(key, str) else data[key]) is None:
            data[key] = {}
            document.keys[route] = document.values[route] = place
        data, parts = data[key], rest
    for old in [old for old in document.values if old[: len(route)] == route]:
        del document.values[old]
        document.keys.pop(old, None)
    document.keys[route] = place
    document.values |= {(*route, *inner): place for inner in made.values}
    document.keys |= {(*route, *inner): place for inner in made.keys}


def _step(data: Any, parts: list[str]) -> tuple[Any, list[str]]:
    """Return the key (None for none) that a dotted name begins with in `data`, and what follows it."""
    if isinstance(data, list) and parts[0].isdecimal() and int(parts[0]) < len(data):
        return int(parts[0]), parts[1:]
    if not isinstance(data, dict):
        return None, parts
    # A label may hold dots: the longest key that is there wins.
    there = (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in data)
    used = next(there, 1)
    return ".".join(parts[:used]), parts[used:]

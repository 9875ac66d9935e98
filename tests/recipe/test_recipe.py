"""The order of labels, circles among them, and the canonical form of a recipe."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from alignbench.errors import RecipeError
from alignbench.recipe.graph import edges, find_circle, order
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe, canonical

TEXT = """\
model: {id: sandbox}
data: {train: sandbox, limit: 64}
start: one
methods:
  two: {method: learner, rate: 0.5}
  one: {method: learner, start: base}
  taught: {method: learner, teacher: three, parents: [base, one]}
  three: {method: learner, start: two, training: {batch: 4}, budget: {steps: 3}}
evaluation: {judges: [gold]}
"""


def test_labels_start_after_what_they_need_and_otherwise_in_the_order_of_the_recipe(loaded) -> None:
    recipe = loaded(TEXT).recipe
    assert edges(recipe) == {"two": ("one",), "one": (), "taught": ("one", "three"), "three": ("two",)}
    assert order(edges(recipe)) == ("one", "two", "three", "taught")


def test_a_circle_in_a_recipe_that_was_never_checked_is_an_error_that_names_it() -> None:
    methods = {"a": {"method": "learner", "start": "b"}, "b": {"method": "learner", "start": "a"}}
    recipe = Recipe.model_validate({"model": {"id": "m"}, "data": {"train": "d"}, "methods": methods})
    with pytest.raises(RecipeError, match="a -> b -> a"):
        order(edges(recipe))


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3), max_size=9))
def test_a_circle_is_found_exactly_where_there_is_one(graph: dict[int, list[int]]) -> None:
    needs = {str(node): tuple(str(parent) for parent in parents) for node, parents in graph.items()}
    circle = find_circle(needs)
    left = dict(needs)
    while done := [node for node in left if not any(parent in left for parent in left[node])]:
        for node in done:
            del left[node]
    assert bool(circle) == bool(left)
    if circle:
        assert circle[0] == circle[-1]
        assert all(after in needs[before] for before, after in pairwise(circle))


def test_the_canonical_recipe_reads_back_to_itself(loaded) -> None:
    recipe = loaded(TEXT).recipe
    assert Recipe.model_validate_json(canonical(recipe)) == recipe
    assert canonical(Recipe.model_validate_json(canonical(recipe))) == canonical(recipe)


def test_comments_white_space_key_order_and_defaults_written_out_do_not_change_the_canonical_recipe(
    loaded,
) -> None:
    other = """\
# another hand
evaluation:
    judges:
      - gold       # the first evaluation judge
    prompts: 200
methods:
  three: {budget: {steps: 3}, start: two, training: {batch: 4}, method: learner}
  one:
    start: base
    method: learner
    rate: 0.1
  taught: {parents: [base, one], teacher: three, method: learner, kind: plain}
  two: {rate: 5e-1, method: learner}
start: one
data: {limit: 64, train: {sandbox: {}}, max_length: 1024}
model: {id: sandbox, quantization: nf4}
seeds: [0]
"""
    assert canonical(loaded(TEXT).recipe) == canonical(loaded(other).recipe)


def leaves(value: Any, way: tuple = ()):
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None or not value:
        yield way
        return
    for key, item in items:
        yield from leaves(item, (*way, key))


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {None: "x", "": "x"}.get(value, f"{value}x") if not isinstance(value, dict | list) else "x"


def test_every_single_value_changes_the_canonical_recipe(loaded) -> None:
    found = canonical(loaded(TEXT).recipe)
    told_apart = 0
    for way in leaves(json.loads(found)):
        other = json.loads(found)
        inner = other
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = changed(inner[way[-1]])
        try:
            recipe = Recipe.model_validate(other)
        except ValidationError:
            continue
        assert canonical(recipe) != found, way
        told_apart += 1
    assert told_apart > 40


def test_the_row_order_of_the_table_is_that_of_the_recipe(loaded) -> None:
    assert list(loaded(TEXT).recipe.methods) == ["two", "one", "taught", "three"]


def test_every_field_of_the_schema_says_what_it_is() -> None:
    def models(kind: Any):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        for part in get_args(kind):
            yield from models(part)

    def silent(model: type[BaseModel]):
        for name, field in model.model_fields.items():
            inside = [found for kind in models(field.annotation) for found in silent(kind)]
            # A block is described by its class.
            if not field.description and not list(models(field.annotation)):
                yield f"{model.__name__}.{name}"
            yield from inside

    assert list(silent(Recipe)) == []


COUNTED = '''
from pydantic import model_validator

from alignbench import Method, MethodConfig, NamedMethod, Pair

BUILT = []


class Inner(Method):
    """Counts its configs. Source: this test."""

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        rate: float = 0.1
        twice: float = 2.0

        @model_validator(mode="after")
        def _count(self):
            BUILT.append(type(self).__qualname__)
            return self

    def align(self, run):
        return run.start


class Outer(Inner):
    """Names another method. Source: this test."""

    api = 2

    class Config(Inner.Config):
        inner: NamedMethod = NamedMethod(name="inner", config={"rate": 0.3})
'''


def test_every_config_is_built_once_from_the_file_to_the_plan(install, loaded) -> None:
    points = {"inner": "counted_plugin:Inner", "outer": "counted_plugin:Outer"}
    install("counted-plugin", "1.0", modules={"counted_plugin": COUNTED}, methods=points)
    recipe = loaded(
        "model: {id: sandbox}\ndata: {train: sandbox}\n"
        "methods: {inner: {}, outer: {rate: 0.2, inner: {inner: {rate: 0.4}}}}\n"
    ).recipe
    plan = resolve(recipe)
    assert plan.labels["outer"].config["inner"]["config"] == {"rate": 0.4, "twice": 2.0}
    built = importlib.import_module("counted_plugin").BUILT
    assert sorted(built) == [
        "Inner.Config",
        "Inner.Config",
        "Outer.Config",
    ]  # two of `inner`: its own and the named one

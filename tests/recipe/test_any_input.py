"""Whatever is written in a recipe, the answer is a recipe or an error that a person can use."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignbench.errors import AlignbenchError
from alignbench.recipe.load import load
from alignbench.recipe.schema import Recipe, canonical
from alignbench.recipe.yaml import parse

MARKS = st.sampled_from(
    [*"[]{}:,-?!&*#|>'\"%@`~ \n\tab01.", "---\n", ": ", "- ", "<<", "!!", "1e9", "\u202e", "\x00"]
)
WORDS = st.sampled_from(
    ["sandbox", "learner", "base", "./x", "../x", "a/b", "a" * 70, "Ü", "", "auto", "nf4", "1e-5", "no"]
)
NUMBERS = st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**30)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "model": {"id": "sandbox", "quantization": "nf4", "adapter": {"rank": 8, "targets": ["a"]}},
    "data": {"train": "sandbox", "limit": 9, "split": {"by": "user"}, "filters": ["dedupe", {"length": {}}]},
    "training": {"batch": 4, "micro_batch": "auto", "checkpointing": True},
    "budget": {"steps": 2},
    "start": "base",
    "methods": {
        "learner": {"rate": 0.5, "start": {"adapter": "a/b"}},
        "two": {"method": "learner", "teacher": "learner", "parents": ["learner"], "training": {"batch": 2}},
        "three": {"method": "learner", "config": {"rate": 1}, "budget": {"rows": 7}},
    },
    "evaluation": {"prompts": 2, "sampling": {"top_p": 0.5}, "judges": ["gold"], "metrics": [{"length": {}}]},
    "seeds": [0, 1],
}


def places(value: Any, way: tuple = ()):
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*way, key))


def replaced(value: Any, way: tuple, new: Any) -> Any:
    if not way:
        return new
    copy = value.copy()
    copy[way[0]] = replaced(value[way[0]], way[1:], new)
    return copy


@given(st.lists(MARKS, max_size=40).map("".join))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused_with_its_problems(text: str) -> None:
    try:
        document = parse(text, "r.yaml")
    except AlignbenchError as error:
        problems = error.problems
    else:
        json.dumps(document.data, allow_nan=False)
        return
    assert problems
    assert all(problem.file == "r.yaml" and problem.what for problem in problems)


@given(way=st.sampled_from(list(places(GOOD))), new=VALUES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_a_recipe_or_an_error_with_its_place(recipe, way: tuple, new: Any) -> None:
    path = recipe(json.dumps(replaced(GOOD, way, new)))
    try:
        made = load(path).recipe
    except AlignbenchError as error:
        problems = error.problems
    else:
        assert Recipe.model_validate_json(canonical(made)) == made
        return
    assert problems
    assert all(problem.what and (problem.file, problem.line) == (str(path), 1) for problem in problems)


@given(
    way=st.lists(
        WORDS | st.sampled_from([*map(str, range(3)), *GOOD, "batch", "rate"]), min_size=1, max_size=4
    ),
    found=WORDS | st.lists(MARKS, max_size=6).map("".join),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_override_is_a_recipe_or_an_error(recipe, way: list[str], found: str) -> None:
    path = recipe(json.dumps(GOOD))
    try:
        load(path, [f"{'.'.join(way)}={found}"])
    except AlignbenchError as error:
        problems = error.problems
    else:
        return
    assert all(problem.what for problem in problems)

"""The recipes that come with the project are good, wherever they are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.engine.cells import cells_of
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))


def test_the_recipes_are_there() -> None:
    assert {"quickstart.yaml", "hh-smoke.yaml", "hh.yaml", "hh-ja.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_passes_check_and_plan(name: str, request: pytest.FixtureRequest) -> None:
    text = (ROOT / "recipes" / name).read_text(encoding="utf-8")
    if "../shared/" in text:
        request.getfixturevalue("shared")
    recipe = load(ROOT / "recipes" / name).recipe
    planned = cells_of(resolve(recipe))
    assert len(planned) == (len(recipe.methods) + 1) * len(recipe.seeds)
    assert planned[0].label == "base"
    assert set(resolve(recipe).labels) == set(recipe.methods)
    assert text.startswith("# "), "a recipe begins with what it is for"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_treats_all_its_methods_alike(name: str) -> None:

    text = (ROOT / "recipes" / name).read_text(encoding="utf-8")
    if "../shared/" in text and not (ROOT.parent / "shared").is_dir():
        pytest.skip("needs the folder shared next to the checkout")
    recipe = load(ROOT / "recipes" / name).recipe
    # Who judges is a method's own; that it is the policy's own base is printed all the same. A start has its part of a
    # budget that is for the whole chain.
    if recipe.budget.scope == "chain":
        recipe = recipe.model_copy(
            update={
                "methods": {
                    label: block.model_copy(update={"budget": None}) if label == "sft" else block
                    for label, block in recipe.methods.items()
                },
                "budget": recipe.budget.model_copy(update={"scope": "own"}),
            }
        )
    departures = [str(one) for label in recipe.methods for one in resolve(recipe).labels[label].departures]
    assert [one for one in departures if not one.startswith("labelled by its own base")] == []

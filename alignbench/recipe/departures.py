"""In what a label differs from what the recipe gives to all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from alignbench.api.config import Named
from alignbench.api.method import Departure
from alignbench.recipe.configs import build
from alignbench.recipe.graph import compares, overlap
from alignbench.recipe.schema import FILE, ModelStart, Recipe, Relabelled


def departures(
    recipe: Recipe, label: str, judges: Iterable[Named], comparisons: Relabelled | None
) -> tuple[Departure, ...]:
    """Return in what a label differs from what the recipe gives to all.

    `judges` are those it learns from, `comparisons` how its comparisons are made (None: those of the file).
    """
    block, found = recipe.methods[label], []
    if block.budget is not None and block.budget != recipe.budget:
        found.append(Departure("budget", str(recipe.budget), str(block.budget)))
    for name, own in block.training.items():
        shared = getattr(recipe.training, name)
        if own != shared:
            found.append(Departure(f"training.{name}", str(shared), str(own)))
    if recipe.sweep is not None and not block.sweep:
        found.append(Departure("tuning", f"{recipe.sweep.trials} trials", "none"))
    source = recipe.data.source
    if source != FILE and compares(recipe, label) and comparisons is None:
        found.append(Departure("comparisons", f"answers of {source.policy}", "the file's"))
    if block.seeds is not None and block.seeds != recipe.seeds:
        found.append(Departure("seeds", _listed(recipe.seeds), _listed(block.seeds)))
    for judge in judges:
        found += [
            Departure(f"trained on its evaluation judge, {name}")
            for name in overlap(recipe, judge, allowed=True)
        ]
        kind, config = build("judges", judge.name, judge.config)
        reader = kind.reads_with(config, recipe.model.id)
        if reader == recipe.model.id:
            found.append(Departure(f"labelled by its own base, as the judge {judge.name}"))
        elif related(reader, recipe.model.id):
            found.append(Departure(f"labelled by a relative of its base, {reader}"))
    if isinstance(block.start, ModelStart):
        found.append(Departure("base model", recipe.model.id, block.start.model))
    return tuple(found)


def over_seeds(cells: Iterable[Iterable[Departure]]) -> tuple[Departure, ...]:
    """Return the departures of a label's cells, each once: where sizes alone differ, the least and the most."""
    alike: dict[tuple[str, ...], list[Departure]] = {}
    for found in cells:
        seen: Counter[tuple[str, ...]] = Counter()
        for one in found:
            kind = (one.what, one.shared, *re.split(NUMBER, one.own)[::2])
            alike.setdefault((*kind, str(seen[kind])), []).append(one)
            seen[kind] += 1
    return tuple(replace(those[0], own=_range([one.own for one in those])) for those in alike.values())


NUMBER = r"(\d[\d,]*(?:\.\d+)?)"


def _range(sizes: list[str]) -> str:
    """Return texts that differ in their numbers as one: `3 rows, 1,000 to 1,200 tokens`."""
    columns = zip(*(re.split(NUMBER, one) for one in sizes), strict=True)
    found = ([*dict.fromkeys(sorted(column, key=_value))] for column in columns)
    return "".join(one[0] if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in found)


def _value(text: str) -> float:
    return float(text.replace(",", "")) if re.fullmatch(NUMBER, text) else 0.0


def related(one: str, other: str) -> bool:
    """Whether two models seem to be of one family, by their names: a model's, or the letters it begins with."""
    if not one or not other:
        return False
    stems = [re.match("[a-z]*", id.rstrip("/").rpartition("/")[2].lower()) for id in (one, other)]
    first, second = (stem.group() if stem else "" for stem in stems)
    return (first == second != "") or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))

"""The cells of a run: every label at every seed, in the order in which they can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import RecipeError
from alignbench.layout import cell_folder, cell_name
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import BASE


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One label at one seed: the unit of work, of isolation and of resume."""

    label: str
    seed: int
    parents: tuple[str, ...] = ()
    """Labels whose policies of the same seed it needs."""

    def __str__(self) -> str:
        return cell_name(self.label, self.seed)

    def folder(self, run: Path) -> Path:
        return cell_folder(run, self.label, self.seed)


def cells_of(plan: Plan, only: Iterable[str] = ()) -> tuple[PlannedCell, ...]:
    """Return the cells in order: seed by seed, `base` first, each label after those it needs.

    `only` keeps the named labels and what they need. Raises RecipeError for a label that is not there.
    """
    parents: dict[str, tuple[str, ...]] = {BASE: ()}
    seeds: dict[str, list[int]] = {BASE: list(plan.seeds)}
    for label, one in plan.labels.items():
        parents[label], seeds[label] = one.parents, list(one.seeds)
    wanted = set(only) or set(parents)
    if unknown := wanted - set(parents):
        named = ", ".join([BASE, *plan.labels])
        raise RecipeError(
            f"--only names {', '.join(sorted(unknown))}, which the recipe does not have", f"it has {named}"
        )
    wanted.add(BASE)
    for label in reversed(parents):  # a label comes after those it needs
        if label in wanted:
            wanted.update(parents[label])
    labels = [label for label in parents if label in wanted]
    for label in reversed(labels):  # what a label needs runs at its seeds too
        for parent in (BASE, *parents[label]):
            seeds[parent] = list(dict.fromkeys([*seeds[parent], *seeds[label]]))
    return tuple(
        PlannedCell(label, seed, parents[label])
        for seed in seeds[BASE]
        for label in labels
        if seed in seeds[label]
    )


def parents_of(cells: Sequence[PlannedCell]) -> dict[PlannedCell, list[PlannedCell]]:
    """Return for each cell the cells that it needs, in the order of the plan."""
    at = {(cell.label, cell.seed): place for place, cell in enumerate(cells)}
    needed = {cell: [(label, cell.seed) for label in cell.parents] for cell in cells}
    return {
        cell: [cells[n] for n in sorted(at[one] for one in found if one in at)]
        for cell, found in needed.items()
    }


def ancestors_of(
    cell: PlannedCell, parents: Mapping[PlannedCell, Sequence[PlannedCell]]
) -> list[PlannedCell]:
    """Return every cell that a cell builds on, directly or not, each once."""
    found: dict[PlannedCell, None] = {}
    queue = list(parents[cell])
    while queue:
        one = queue.pop()
        if one not in found:
            found[one] = None
            queue += parents[one]
    return list(found)


def ranks(
    parents: Mapping[PlannedCell, Sequence[PlannedCell]],
    max_workers: int,
    seconds: Mapping[str, float] | None = None,
) -> dict[PlannedCell, tuple[float, int]]:
    """Return what to sort cells by that may start, the least first; `parents` in the order of the plan.

    Side by side, the cell with the longest chain comes first: itself and the cells that wait for it, one after the
    other, by the `seconds` that a cell of their label takes. A label without takes the mean of the others; where there
    are none, cells are counted. One at a time, the order of the plan is as good as any, and has whole seeds first.
    """
    known = seconds or {}
    usual = sum(known.values()) / len(known) if known else 1.0
    chain = dict.fromkeys(parents, 0.0)
    if max_workers > 1:
        for cell in reversed(list(parents)):  # children come after what they need
            chain[cell] += known.get(cell.label, usual)
            for parent in parents[cell]:
                chain[parent] = max(chain[parent], chain[cell])
    return {cell: (-chain[cell], place) for place, cell in enumerate(parents)}

"""The procedure over its looks: which runs each look needs, what they have decided, and what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alignbench import layout, results, store
from alignbench.commands.claims.evidence import Evidence, Run, evidence
from alignbench.commands.claims.records import REPLICATION, Place, Records
from alignbench.commands.claims.registry import REGISTRY, Claim, Part, Registry, load
from alignbench.commands.claims.verdicts import (
    DECIDED,
    NOTHING,
    Found,
    PValues,
    decide,
    found,
    next_threshold,
    p_values,
    threshold_of,
    usable,
)
from alignbench.engine import extend
from alignbench.engine.cells import PlannedCell, cells_of
from alignbench.errors import Problem, RecipeError
from alignbench.recipe.load import load as load_recipe
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded

QUICK_SEED = 0
"""A seed of no look: what it shows is for the eye."""
ENDED = ("done", "diverged", "blocked")
"""How a cell may have ended for good; one that failed or was stopped runs again."""


@dataclass(frozen=True)
class Wanted:
    """One run of a look: a recipe with overrides and seeds, and the labels that its open parts need."""

    folder: Path
    loaded: Loaded
    labels: tuple[str, ...]
    claims: tuple[str, ...]
    """The claims that need it."""
    earlier: Path | None = None
    """The run of the look before, whose cells it takes."""

    @cached_property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Every cell, those of earlier looks too."""
        return cells_of(resolve(self.loaded.recipe), self.labels)

    @property
    def missing(self) -> tuple[PlannedCell, ...]:
        """The cells that no look has run yet."""
        places = [self.folder, *([self.earlier] if self.earlier else [])]
        return tuple(
            one for one in self.cells if not any((one.folder(at) / store.COMMIT).exists() for at in places)
        )

    @property
    def finished(self) -> bool:
        """Whether its record is there, with every cell that it needs, ended for good."""
        if not (self.folder / layout.RESULTS).exists():
            return False
        ended = {(one.label, one.seed): one.status for one in results.read(self.folder).cells}
        return all(ended.get((one.label, one.seed)) in ENDED for one in self.cells)

    def prepare(self) -> None:
        """Take the rows and cells of the look before."""
        if self.earlier is not None and (self.earlier / layout.RESULTS).exists():
            extend.extend(self.earlier, self.folder, self.loaded, self.cells)


@dataclass(frozen=True)
class State:
    """How far the procedure is."""

    found: dict[str, list[Found]]
    """What is known of each part, by claim."""
    look: int | None
    """The number of seeds of the look that is not finished; None where all looks are over."""
    next: tuple[Wanted, ...]
    """The runs that this look needs and that are not finished."""
    threshold: float = -1.0
    """The largest p value that decides a part at the last look with numbers; -1 where none does."""


class Looks:
    """The runs of a registry in a folder, and what is on record of runs elsewhere."""

    def __init__(self, registry: Registry, runs: Path, overrides: Iterable[str] = ()):
        self.registry, self.runs, self.overrides = registry, runs, tuple(overrides)

    @cached_property
    def records(self) -> Records:
        """What is on record. Raises RecipeError where it is of another registry."""
        return Records(self.registry)

    def recorded(self) -> dict[str, list[Found]]:
        """Return what the evidence on record has decided, without a look at any run."""
        return Looks(self.registry, self.registry.folder / "no runs").state().found

    def state(self) -> State:
        """Return what the finished runs have decided, look by look.

        A look is over when every claim that was open before it has its runs; its parts are then judged together,
        and those that stay open go to the next. A look that is under way is judged by what is there: a part that
        it decides stays decided, because further numbers only add verdicts to the correction. A part whose evidence
        is on record needs no run; that of finished runs is put there.
        """
        procedure, claims = self.registry.procedure, self.registry.askable
        known = {name: [Found(part) for part in claim.parts] for name, claim in claims.items()}
        family = sum(len(claim.parts) for claim in claims.values())
        open_parts = [(name, place) for name, claim in claims.items() for place in range(len(claim.parts))]
        before: int | None = None
        threshold = -1.0
        for look in procedure.looks:
            evidence_of, left = self._collect(
                open_parts,
                _seeds(look),
                lambda parts, look=look, before=before: self.wanted(parts, look, before),
            )
            judged = {at: self._p_values(claims[at[0]].parts[at[1]], one) for at, one in evidence_of.items()}
            closed = family - len(open_parts)
            words = decide(procedure, family, closed, judged)
            if judged:
                threshold = threshold_of(procedure.level, family, closed, judged.values())
            closed += sum(word in DECIDED for word in words.values())
            level = next_threshold(procedure, family, closed)
            for (name, place), word in words.items():
                known[name][place] = found(
                    procedure, claims[name].parts[place], look, word, evidence_of[name, place], level
                )
            if left:
                return State(known, look, left, threshold)
            open_parts = [at for at in open_parts if words[at] not in DECIDED]
            before = look
            if not open_parts:
                break
        return State(known, None, (), threshold)

    def wanted(self, parts: Iterable[Place], look: int, before: int | None) -> tuple[Wanted, ...]:
        """Return the runs of a look at these parts; claims with the same recipe and overrides share one."""
        seeds = self.registry.procedure.seeds(look)
        return self._runs(parts, seeds, _seeds(look), None if before is None else _seeds(before))

    def replication(self, known: Mapping[str, list[Found]]) -> tuple[dict[Place, Found], tuple[Wanted, ...]]:
        """Return what the decided parts show on new seeds, each judged by itself, and the runs that are left."""
        procedure, claims = self.registry.procedure, self.registry.askable
        decided = [
            (name, place)
            for name, ones in known.items()
            for place, one in enumerate(ones)
            if one.word in DECIDED
        ]
        seeds = procedure.replication.seeds
        evidence_of, left = self._collect(
            decided, REPLICATION, lambda parts: self._runs(parts, seeds, REPLICATION, None)
        )
        again: dict[Place, Found] = {}
        for (name, place), one in evidence_of.items():
            part = claims[name].parts[place]
            judged = self._p_values(part, one)
            word = judged.word(procedure.replication.error)
            again[name, place] = found(procedure, part, len(seeds), word, one, procedure.replication.error)
        return again, left

    def quick(self) -> tuple[tuple[Wanted, ...], dict[str, list[Found]]]:
        """Return the runs of one seed that decides nothing, and what the finished ones show of every part."""
        procedure, claims = self.registry.procedure, self.registry.askable
        parts = [(name, place) for name, claim in claims.items() for place in range(len(claim.parts))]
        wanted = self._runs(parts, [QUICK_SEED], "quick", None)
        left = tuple(one for one in wanted if not one.finished)
        known = {name: [Found(part) for part in claim.parts] for name, claim in claims.items()}
        waiting = {name for one in left for name in one.claims}
        for (name, place), one in self._evidence(claims, parts, waiting, wanted).items():
            known[name][place] = found(procedure, claims[name].parts[place], 1, "undecided", one)
        return left, known

    def _collect(
        self, parts: Sequence[Place], look: str, runs: Callable[[Sequence[Place]], tuple[Wanted, ...]]
    ) -> tuple[dict[Place, Evidence], tuple[Wanted, ...]]:
        """Return the evidence of a look at these parts, and the runs that the others wait for."""
        recorded = self.records.of(look)
        asked = [at for at in parts if at not in recorded]
        wanted = runs(asked)
        left = tuple(one for one in wanted if not one.finished)
        waiting = {name for one in left for name in one.claims}
        new = self._evidence(self.registry.askable, asked, waiting, wanted)
        done = [one for one in wanted if one not in left]
        self.records.keep(look, new, {self._name(one.folder): _made(one.folder) for one in done})
        return {at: one for at, one in (recorded | new).items() if at in parts}, left

    def _p_values(self, part: Part, one: Evidence) -> PValues:
        if one.estimate is None or not usable(self.registry.procedure, one):
            return NOTHING
        return p_values(part, one.estimate)

    def _evidence(
        self, claims: Mapping[str, Claim], parts: Iterable[Place], waiting: set[str], wanted: Iterable[Wanted]
    ) -> dict[Place, Evidence]:
        opened: dict[Path, Run] = {}

        def run(folder: Path) -> Run:
            if folder not in opened:
                opened[folder] = Run(results.read(folder), folder)
            return opened[folder]

        folders = {one.folder.parent: one.folder for one in wanted}
        collected: dict[Place, Evidence] = {}
        for name, place in parts:
            if name in waiting:
                continue
            claim = claims[name]
            variants = {variant: self._home(claim, variant) for variant in _variants(claim)}
            runs = {variant: run(folders[home]) for variant, home in variants.items() if home in folders}
            collected[name, place] = evidence(claim.parts[place], runs)
        return collected

    def _runs(
        self, parts: Iterable[Place], seeds: list[int], folder: str, earlier: str | None
    ) -> tuple[Wanted, ...]:
        of_claim: dict[str, list[int]] = {}
        for name, place in parts:
            of_claim.setdefault(name, []).append(place)
        labels: dict[Path, dict[str, None]] = {}
        needed: dict[Path, list[str]] = {}
        loaded: dict[Path, Callable[[], Loaded]] = {}
        for name, places in of_claim.items():
            claim = self.registry.claims[name]
            for variant, overrides in _variants(claim).items():
                named = claim.labels(variant, places)
                if not named:
                    continue
                home = self._home(claim, variant)
                labels.setdefault(home, {}).update(dict.fromkeys(named))
                needed.setdefault(home, []).append(name)
                path = self.registry.folder / claim.recipe
                settings = [*overrides, *self.overrides, f"seeds={seeds}"]
                loaded.setdefault(home, lambda path=path, settings=settings: load_recipe(path, settings))
        return tuple(
            Wanted(
                home / folder,
                loaded[home](),
                tuple(labels[home]),
                tuple(needed[home]),
                home / earlier if earlier else None,
            )
            for home in labels
        )

    def _name(self, folder: Path) -> str:
        return folder.parent.relative_to(self.runs).as_posix()

    def _home(self, claim: Claim, variant: str) -> Path:
        """The folder of all looks at one recipe with one set of overrides."""
        name = Path(claim.recipe).stem
        return (
            self.runs
            / name
            / (f"{variant}-{store.digest(claim.variants[variant])[:6]}" if variant else "plain")
        )


def later(registry: Registry) -> list[tuple[Registry, dict[str, list[Found]]]]:
    """Return the registries that ask some of the claims again, the first registered first, and what is on record of
    each of their parts.

    Raises RecipeError where a part asks again what is not there, or another thing, or with seeds that were used.
    """
    again = sorted(map(load, registry.follow_ups), key=lambda one: one.procedure.first_seed)
    again = [one for one in again if one.procedure.first_seed > registry.procedure.first_seed]
    last, used = (
        {name: claim.parts for name, claim in registry.claims.items()},
        set(registry.procedure.every_seed),
    )
    for one in again:
        file = str(one.folder / REGISTRY)
        if shared := used & set(one.procedure.every_seed):
            raise RecipeError(
                Problem(f"seed {min(shared)} is one of an earlier registry", "take new ones", file=file)
            )
        used |= set(one.procedure.every_seed)
        for name, claim in one.claims.items():
            for part in claim.parts if name in last else ():
                if part.again is not None and not part.asks_again(last[name]):
                    raise RecipeError(
                        Problem(
                            f"{name}: no part {part.again} of the registries before asks '{part.says}'",
                            "name one with the same metric, sign, d and around",
                            file=file,
                        )
                    )
            if claim.parts and all(part.again is None for part in claim.parts):
                last[name] = claim.parts
    return [(one, Looks(one, one.folder).recorded()) for one in again]


def _seeds(look: int) -> str:
    """The name of a look's runs and records."""
    return f"{look}-seeds"


def _variants(claim: Claim) -> dict[str, list[str]]:
    return dict(claim.variants) or {"": []}


def _made(folder: Path) -> dict[str, Any]:
    """When, with which versions and on what kind of machine a run was made."""
    environment = results.read(folder).environment
    return {
        name: environment.get(name)
        for name in ("started", "finished", "platform", "device", "versions", "mixed")
    }

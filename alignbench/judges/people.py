"""People as a judge: their rankings, read from the journal of the labelling page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from alignbench import layout, store
from alignbench.api.config import Settings
from alignbench.api.judge import Judge, Models, PairwiseJudgment, Score, preference
from alignbench.errors import RecipeError
from alignbench.label import design, journal, thresholds
from alignbench.label.journal import Annotation
from alignbench.label.thresholds import Thresholds
from alignbench.rows import Prompt

NAME = "people"
UNFLAGGED = {"not helpful": "helpful", "not honest": "honest", "harmful": "harmless"}
"""The part of a score that a flag lowers."""

MOST_RATERS = 5
"""Raters who have columns of their own; with more of them there is one judge, of all together."""


class People(Judge):
    """Raters' rankings of these very answers; it abstains on answers that nobody ranked.

    Of two answers it says the share of raters who prefer the first, ties counting half, each rater once. An
    answer's score is the raters' mean from 1 to 7, where scores were asked, with the share of raters who did
    not flag it as its parts. Answers with the same text are a tie where somebody ranked the item. Raters below
    `agreement`, `consistency` or `checks` are left out and named in `quality`; where one is not given, the threshold
    that `alignbench label --require` set in the folder holds.
    """

    api = 2
    recorded = True

    class Config(Settings):
        """Where the labels lie, and who is left out."""

        folder: str
        """The folder of the journal: `people` in that of a run."""
        rater: str | None = None
        """One rater's annotations alone; none: all together."""
        agreement: float | None = Field(default=None, ge=0, le=1)
        """Least share of pairs that a rater orders like the others. None: as set in the folder."""
        consistency: float | None = Field(default=None, ge=0, le=1)
        """Least share of pairs of repeated items that a rater orders as before. None: as set in the folder."""
        checks: float | None = Field(default=None, ge=0, le=1)
        """Least share of pairs with a known answer that a rater orders rightly. None: as set in the folder."""

    def open(self, models: Models) -> None:
        self.read_from(models.root / self.config.folder)

    def read_from(self, folder: Path) -> None:
        """Read design and journal. Raises RecipeError where the folder holds none."""
        self.design = design.read(folder)
        self.annotations = journal.read(folder)
        if not self.annotations:
            raise RecipeError(f"nobody has ranked anything in {folder}", "begin with: alignbench label RUN")
        given = self.config.model_dump(include=set(Thresholds.model_fields), exclude_none=True)
        limits = thresholds.read(folder).model_copy(update=given)
        found, self.annotations = thresholds.applied(self.design, self.annotations, limits)
        own, names = self.config.rater, ("agreement", "consistency", "checks", "first")
        if own is not None:
            self.annotations = [one for one in self.annotations if one.rater == own]
            known = found["raters"].get(own, {})
            self.quality = {"labels": {name: known.get(name) for name in ("items", "flags")}}
            self.quality |= {name: known[name] for name in names if known.get(name)}
            return
        short = {
            rater: {name: one[name] and one[name]["value"] for name in names} | {"items": one["items"]}
            for rater, one in found["raters"].items()
        }
        labels = {
            name: found[name] for name in ("chosen", "items", "overlap", "repeats", "alpha", "unmeasured")
        }
        labels["left_out"] = [f"{rater}: {reason}" for rater, reason in found["left_out"].items()]
        labels["thresholds"] = [f"{name} at least {least:.0%}" for name, least in found["thresholds"].items()]
        self.quality = {"labels": labels, "agreement": found["agreement"], "raters": short}

    def fingerprint(self) -> Any:
        records = [annotation.model_dump(mode="json") for annotation in self.annotations]
        return [super().fingerprint(), store.digest(records)]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        return [self._score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _score(self, prompt: Prompt, answer: str) -> Score:
        given = self._known.get(prompt_key(prompt.prompt), {}).get(answer, {})
        scores: dict[str, list[float]] = defaultdict(list)
        flags: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for (rater, _), (annotation, place) in given.items():
            if annotation.scores and (score := annotation.scores[place]) is not None:
                scores[rater].append(score)
            if annotation.flags:
                flags[rater].append(annotation.flags[place])
        alone = {
            rater: Score(
                fmean(scores[rater]) if rater in scores else None,
                {
                    name: fmean(flag not in one for one in flags[rater])
                    for flag, name in (UNFLAGGED.items() if rater in flags else ())
                },
            )
            for rater in sorted({*scores, *flags})
        }
        return Score(
            _mean(one.value for one in alone.values()),
            {
                name: _mean(one.parts.get(name) for one in alone.values())
                for name in (UNFLAGGED.values() if flags else ())
            },
            alone,
        )

    def judge_pairs(
        self,
        prompts: Sequence[Prompt],
        a: Sequence[str],
        b: Sequence[str],
        principles: Sequence[str] | None = None,
    ) -> list[PairwiseJudgment]:
        return [
            PairwiseJudgment(
                fmean(ratings.values()) if ratings else None, reason="" if ratings else "nobody ranked it"
            )
            for ratings in self.by_rater(prompts, a, b)
        ]

    def by_rater(
        self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]
    ) -> list[dict[str, float]]:
        """Return for each prompt each rater's preference between `a` and `b`: 1, 0.5 or 0, or between over several
        items."""
        return [self._pair(*one) for one in zip(prompts, a, b, strict=True)]

    def _pair(self, prompt: Prompt, a: str, b: str) -> dict[str, float]:
        known = self._known.get(prompt_key(prompt.prompt), {})
        first, second = known.get(a, {}), known.get(b, {})
        ratings: dict[str, list[float]] = defaultdict(list)
        for place in first.keys() & second.keys():
            (annotation, i), (_, j) = first[place], second[place]
            better = preference(-annotation.ranks[i], -annotation.ranks[j])
            assert better is not None
            ratings[place[0]].append(better)
        return {rater: fmean(ratings[rater]) for rater in sorted(ratings)}

    @cached_property
    def _known(self) -> Mapping[str, Mapping[str, Mapping[tuple[str, str], tuple[Annotation, int]]]]:
        """Prompt -> text -> (rater, item) -> the first annotation and the text's place in it."""
        items = {item.id: item for item in self.design.items if not item.known}
        found: dict[str, dict[str, dict[tuple[str, str], tuple[Annotation, int]]]] = {}
        for annotation in self.annotations:
            item = items.get(annotation.item)
            if item is None or annotation.round:
                continue
            texts = found.setdefault(prompt_key(item.prompt), {})
            for place, answer in enumerate(item.answers):
                texts.setdefault(answer.text, {})[annotation.rater, item.id] = (annotation, place)
        return found


def of_run(run: Path) -> dict[str, People]:
    """Return the judges that a run's own labels make, by name: `people`, and where it has two to five raters each of
    them; none where nobody has ranked anything. They are open."""
    folder = run / layout.PEOPLE
    if all(annotation.automatic for annotation in journal.read(folder)):
        return {}
    together = _own(NAME, None, folder)
    raters = sorted({annotation.rater for annotation in together.annotations if not annotation.automatic})
    alone = raters if 2 <= len(raters) <= MOST_RATERS else []
    return {NAME: together, **{f"{NAME}:{rater}": _own(f"{NAME}:{rater}", rater, folder) for rater in alone}}


def _own(name: str, rater: str | None, folder: Path) -> People:
    judge = People(People.Config(folder=layout.PEOPLE, rater=rater))
    judge.name = name
    judge.read_from(folder)
    return judge


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def prompt_key(prompt: Any) -> str:
    """Return what a prompt is known by: its turns, whoever numbered them."""
    return store.digest([[str(turn.get("role", "")), str(turn.get("content", ""))] for turn in prompt])

"""Keeps the labels of people who label well: annotators are screened against a gold set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from pydantic import Field

from alignbench.api.config import Settings
from alignbench.api.data import RowFilter
from alignbench.data.sources import Jsonl
from alignbench.data.split import prompt_key
from alignbench.errors import DataError, Problem
from alignbench.rows import Pair, Ranking, Row, derive

Ranks = Mapping[str, int]
"""The rank of each answer, by its text."""


@dataclass(frozen=True, slots=True)
class Screened:
    """How well an annotator agrees with the gold set on the prompts that both ranked."""

    agreement: float
    """Share of the comparisons that gold decides and that the annotator orders alike; a tie counts half."""
    ranking: float
    """Mean over prompts of Kendall's tau-b of the two rankings, from -1 to 1; 0 where either is all ties."""
    prompts: int


class Annotators(RowFilter):
    """Keeps the rows of annotators who passed a screening, as InstructGPT chose its labellers.

    The screening is a file of rankings or pairs with the column `annotator`, in which many people, and gold,
    ranked the same answers to the same prompts (arXiv:2203.02155, appendix B.1). Rows of annotators who are
    not in it, or who name none, are dropped: nobody knows how they label.
    """

    api = 2

    class Config(Settings):
        """Where the screening is, and what passes it."""

        screening: str
        """A file of JSON lines."""
        gold: str = "gold"
        """The `annotator` of the gold set in it."""
        agreement: float = Field(0.6, ge=0, le=1)
        """Least share of comparisons that are ordered as gold orders them."""
        ranking: float = Field(0.0, ge=-1, le=1)
        """Least mean Kendall's tau-b with gold's rankings."""

    def keep(self, row: Row) -> Row | None:
        who = str(row.extra.get("annotator", ""))
        found = self.screened.get(who)
        if found is None:
            self.counts["dropped: annotator was not screened"] += 1
        elif found.agreement < self.config.agreement or found.ranking < self.config.ranking:
            self.counts[f"dropped: annotator {who} agrees with gold {found.agreement:.0%}"] += 1
        else:
            return row
        return None

    @cached_property
    def screened(self) -> Mapping[str, Screened]:
        """Every annotator of the screening file. Raises DataError where it has no gold set."""
        config: Annotators.Config = self.config
        source = Jsonl(Jsonl.Config(path=config.screening), root=self.root)
        found = screen(source.rows("train", None, 0), config.gold)
        if not found:
            what = f"nobody ranked the prompts that the annotator '{config.gold}' ranked"
            fix = "give rankings or pairs with the column `annotator`, the gold set among them"
            raise DataError(Problem(what, fix, file=config.screening))
        return found


def screen(rows: Iterable[Row], gold: str) -> Mapping[str, Screened]:
    """Return how well each annotator of `rows` agrees with the annotator `gold`."""
    ranked: dict[str, dict[str, Ranks]] = defaultdict(dict)
    for row in rows:
        if isinstance(row, (Pair, Ranking)):
            (ranking,) = derive(row, Ranking, seed=0)
            ranks = dict(zip(ranking.answers, ranking.ranks, strict=True))
            ranked[str(row.extra.get("annotator", ""))][prompt_key(row.prompt)] = ranks
    truth = ranked.pop(gold, {})
    found = {}
    for who, theirs in ranked.items():
        common = [(truth[prompt], theirs[prompt]) for prompt in theirs if prompt in truth]
        hits = [hit for pair in common for hit in _hits(*pair)]
        if hits:
            taus = [_tau(*pair) for pair in common]
            found[who] = Screened(sum(hits) / len(hits), sum(taus) / len(taus), len(common))
    return found


def _hits(gold: Ranks, theirs: Ranks) -> list[float]:
    """For each comparison that gold decides: 1 where it is ordered alike, 0.5 for a tie, else 0."""
    signs = _signs(gold, theirs)
    return [0.5 if other == 0 else float(one == other) for one, other in signs if one]


def _tau(gold: Ranks, theirs: Ranks) -> float:
    signs = _signs(gold, theirs)
    scale = sum(one != 0 for one, _ in signs) * sum(other != 0 for _, other in signs)
    return sum(one * other for one, other in signs) / scale**0.5 if scale else 0.0


def _signs(gold: Ranks, theirs: Ranks) -> list[tuple[int, int]]:
    def sign(ranks: Ranks, first: str, second: str) -> int:
        return (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])

    both = sorted(gold.keys() & theirs.keys())
    return [(sign(gold, *pair), sign(theirs, *pair)) for pair in combinations(both, 2)]

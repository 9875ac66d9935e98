"""Where a row comes from that enters a loss or is asked: a split of the shared table, the method, or unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Many
from functools import cached_property
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from alignbench.rows import Ids, Pair, Prompt, Ranking, Row, Sequence, Text, UnpairedPreference

if TYPE_CHECKING:
    from alignbench.data.table import Table

MADE = "made"
"""Rows that the method made and declared: `run.rows(view, given=...)`, or the rows of a stage."""
UNDECLARED = "undeclared"
"""Rows that are neither the table's nor declared."""

JUDGED = "judge"
"""The column of a row that a judge has labelled."""
PEOPLE, MODEL = "people", "model"
"""Who compared two answers of a row of the table: what a judge wrote into a file carries its name."""

Origin = tuple[str, str]
"""The split, `MADE` or `UNDECLARED`; and the id of the row."""
Outcome = tuple[Ids, Ids]
"""Two answers, the better one first."""


class TableIndex:
    """The kept rows of every split, by id and by prompt."""

    def __init__(self, table: Table):
        self.table = table

    def splits(self) -> Iterable[tuple[str, Many[Row]]]:
        """Every split with its rows, those of the pretraining text among them."""
        for split in ("train", "validation", "test"):
            yield split, self.table.kept(split)
            if self.table.view is not Text:
                yield split, self.table.texts(split)

    @cached_property
    def by_id(self) -> Mapping[str, list[tuple[str, Row]]]:
        found: dict[str, list[tuple[str, Row]]] = {}
        for split, rows in self.splits():
            for row in rows:
                found.setdefault(row.id, []).append((split, row))
        return found

    @cached_property
    def by_prompt(self) -> Mapping[Ids, list[Origin]]:
        """By the token ids of the prompt."""
        found: dict[Ids, list[Origin]] = {}
        for split, rows in self.splits():
            for row in rows:
                if isinstance(row, Prompt):
                    found.setdefault(row.prompt_ids, []).append((split, row.id))
        return found

    @cached_property
    def texts(self) -> Mapping[Sequence, Origin]:
        """Plain text by its tokens."""
        return {
            one: (split, row.id)
            for split, rows in self.splits()
            for row in rows
            if isinstance(row, Text)
            for one in row.sequences()
        }


class RowOrigins:
    """The origins of the rows that one run uses."""

    def __init__(self, index: TableIndex):
        self.index = index
        self._declared: dict[str, list[tuple[Origin, Many[Sequence]]]] = {}
        self._prompts: set[Ids] = set()
        self._comparisons: dict[Origin, Mapping[Outcome, str]] = {}

    def declare(self, rows: Iterable[Row]) -> None:
        """Note the rows that a method hands in; what is a row of the table under another id stays that row.

        A row with a prompt that other splits have, and no training row, is one of theirs, whatever its answer is.
        """
        for row in rows:
            origin = self._in_table(row) or self._elsewhere(row) or (MADE, row.id)
            self._declared.setdefault(row.id, []).append((origin, _sequences(row)))
            if isinstance(row, Prompt):
                self._prompts.add(row.prompt_ids)

    def of_row(self, row: Row) -> Origin:
        """Return the origin of a row that enters a loss. Its tokens decide: an id alone proves nothing."""
        for origin, known in self._declared.get(row.id, ()):
            if _among(_sequences(row), known):
                return origin
        return self._in_table(row) or (UNDECLARED, row.id)

    def of_prompt(self, prompt: Prompt) -> Origin | None:
        """Return the origin of a prompt that is answered; None for one that no row has."""
        for split, row in self.index.by_id.get(prompt.id, ()):
            if isinstance(row, Prompt) and row.prompt == prompt.prompt:
                return split, row.id
        return self._declared[prompt.id][0][0] if prompt.id in self._declared else None

    def knows(self, prompt: Ids) -> bool:
        """Whether a row of the table, or one that the method declared, has this prompt."""
        return prompt in self.index.by_prompt or prompt in self._prompts

    def of_sequence(self, sequence: Sequence) -> list[Origin]:
        """Return whose prompt a sequence continues; training rows before all others."""
        found = self.index.by_prompt.get(sequence.prompt, [])
        if found:
            train = [origin for origin in found if origin[0] == "train"]
            return train or found
        if sequence.prompt in self._prompts:
            return [(MADE, "")]
        return [self.index.texts.get(sequence, (UNDECLARED, ""))]

    def compared(self, rows: Iterable[object]) -> Iterator[tuple[str, str]]:
        """Yield who made each comparison of the table whose outcome enters a loss through these rows, and its name.

        That is the name of its row with the places of its answers. A pair or a ranking has the outcomes of its
        comparisons, an unpaired preference that of one answer. A demonstration and a prompt have none.
        Views of one row stand side by side. Rows that a judge has labelled for the method are not the table's.
        """
        compared = (row for row in rows if isinstance(row, (Pair, Ranking, UnpairedPreference)))
        for _, group in groupby(compared, key=lambda row: row.id):
            views = list(group)
            split, id = origin = self.of_row(views[0])
            kept = next((one for where, one in self.index.by_id.get(id, ()) if where == split), None)
            if not isinstance(kept, (Pair, Ranking)):
                continue
            who = MODEL if JUDGED in kept.extra else PEOPLE
            if who == PEOPLE and JUDGED in views[0].extra:
                continue
            known = self._comparisons.get(origin)
            if known is None:
                known = self._comparisons[origin] = dict(_places(kept))
            yield from ((who, f"{id}/{known[one]}") for one in _known_outcomes(views, known) if one in known)

    def _elsewhere(self, row: Row) -> Origin | None:
        """Return the row of another split than the training rows' that alone has this prompt."""
        found = self.index.by_prompt.get(_prompt(row), ())
        return next(iter(found), None) if all(split != "train" for split, _ in found) else None

    def _in_table(self, row: Row) -> Origin | None:
        ours = _sequences(row)
        for split, kept in self.index.by_id.get(row.id, ()):
            if _among(ours, _sequences(kept)) and _prompt(row) == _prompt(kept):
                return split, kept.id
        for split, id in self.index.by_prompt.get(_prompt(row), ()) if ours else ():
            kept = next(one for where, one in self.index.by_id[id] if where == split)
            if _among(ours, _sequences(kept)):
                return split, id
        return None


def _places(row: Pair | Ranking) -> Iterator[tuple[Outcome, str]]:
    """Yield each comparison of a row with the places of its two answers, whichever is the better one."""
    answers = [one.response for one in row.sequences()]
    for better, worse, _ in _outcomes(row):
        first, second = sorted((better, worse))
        yield (answers[better], answers[worse]), f"{first}-{second}"


def _known_outcomes(
    views: Many[Pair | Ranking | UnpairedPreference], known: Iterable[Outcome]
) -> Iterator[Outcome]:
    """Yield the outcomes that views of one row give a loss, of the comparisons that are `known`."""
    good = [row.response_ids for row in views if isinstance(row, UnpairedPreference) and row.desirable]
    bad = [row.response_ids for row in views if isinstance(row, UnpairedPreference) and not row.desirable]
    yield from product(good, bad)
    # A last step may take one of the two answers only: which other answer it was compared with is not known then.
    if bool(good) != bool(bad):
        place, alone = (0, good) if good else (1, bad)
        yield from [one for one in known if one[place] in alone][:1]
    for row in views:
        if not isinstance(row, UnpairedPreference):
            answers = [one.response for one in row.sequences()]
            yield from ((answers[better], answers[worse]) for better, worse, _ in _outcomes(row))


def _outcomes(row: Pair | Ranking) -> list[tuple[int, int, float]]:
    """Return (better, worse, probability that it is), by places; a pair is one comparison, a tie of it too."""
    if isinstance(row, Ranking):
        return row.comparisons()
    return [(0, 1, row.preference)] if row.preference >= 0.5 else [(1, 0, 1 - row.preference)]


def _among(ours: Many[Sequence], known: Many[Sequence]) -> bool:
    return all(one in known for one in ours)


def _sequences(row: Any) -> Many[Sequence]:
    return row.sequences() if hasattr(row, "sequences") else ()


def _prompt(row: Any) -> Ids:
    return getattr(row, "prompt_ids", ())

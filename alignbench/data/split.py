"""Which split a row belongs to: fixed by a hash, so that adding rows moves no other row."""

from __future__ import annotations

import json
from hashlib import sha256

from alignbench.api.config import Split
from alignbench.recipe.schema import CONVERSATION, PROMPT, Where
from alignbench.rows import Demonstration, Messages, Prompt, Row, Text


def split_of(row: Row, where: Where) -> Split:
    """Return the row's split.

    Rows of one conversation stay together, or those with one prompt, or one value of the column `where.by`.
    """
    place = _unit("split", where.seed, group_of(row, where.by))
    if place < where.test:
        return "test"
    return "validation" if place < where.test + where.validation else "train"


def is_for_judges(row: Row, where: Where, part: tuple[float, float]) -> bool:
    """Return whether a training row lies in the `part`, from and to, that is held out for a judge that trains.

    Groups stay whole; a row lies in one of two parts that do not overlap.
    """
    return part[0] <= _unit("judges", where.seed, group_of(row, where.by)) < part[1]


def is_in_stage(row: Row, view: type[Row], where: Where) -> bool:
    """Return whether a row belongs to the third of the training rows that are seen in this view.

    Demonstrations, comparisons and prompts to answer come from people and conversations of their own, as in
    InstructGPT's three data sets (arXiv:2203.02155, table 6).
    """
    return int(3 * _unit("stage", where.seed, group_of(row, where.by))) == _STAGE.get(view, 1)


_STAGE: dict[type[Row], int] = {Demonstration: 0, Prompt: 2}
"""Which third; comparisons, in whichever view, are the second."""


def order_of(row: Row, seed: int) -> tuple[float, str]:
    """Return a row's sort key within its split: a limit keeps the first, whichever rows come later."""
    return _unit("order", seed, row.id), row.id


def group_of(row: Row, by: str) -> str:
    """Return what keeps rows together.

    It is the value of the column `by`; the prompt, where `by` is `prompt`; otherwise the conversation.
    """
    if by == PROMPT and isinstance(row, Prompt):
        return prompt_key(row.prompt)
    value = None if by == CONVERSATION else row.extra.get(by)
    return conversation_key(row) if value is None else f"{by}={value}"


def conversation_key(row: Row) -> str:
    """Return one string for a conversation: equal for rows whose first turn of the user is equal.

    A prompt that continues another one therefore has the key of that one. For plain text it is the text.
    """
    if isinstance(row, Prompt):
        first = next((turn for turn in row.prompt if turn["role"] == "user"), None)
        return prompt_key(row.prompt if first is None else (first,))
    return row.text if isinstance(row, Text) else row.id


def prompt_key(prompt: Messages) -> str:
    """Return one string for a prompt, equal for equal prompts."""
    return json.dumps([[turn["role"], turn["content"]] for turn in prompt])


def _unit(purpose: str, seed: int, key: str) -> float:
    """A number in [0, 1) by hash; the first share of it never moves when another share changes."""
    digest = sha256(f"{purpose}/{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

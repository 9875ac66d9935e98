"""Whether a chat template writes a row as it is: every turn, every word of an answer, and no token out of place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from functools import cache

from alignbench.rows import Demonstration, Message, Messages, Pair, Prompt, Ranking, Row

DROPS = "the chat template drops"
"""How a reason begins why a row has no token ids, where another template would give it some."""

SPECIAL = "the special token"
"""How a reason begins where a text holds a token that only the template may write."""

WORDS = "the words"
"""How a reason begins where a text holds the words with which the template opens an answer."""

_SYSTEM = ("system", "developer")
_TAG = re.compile(r"\s*(</?[A-Za-z][\w-]*>)\s*")


def answers(row: Row) -> tuple[str, ...]:
    """Return the answers of a row, in the order of its sequences."""
    if isinstance(row, Ranking):
        return row.answers
    if isinstance(row, Pair):
        return row.chosen, row.rejected
    return (row.response,) if isinstance(row, Demonstration) else ()


class Fidelity:
    """Tests rows against one template.

    `render` writes turns, opened for the next answer; `control` are the special tokens, and `opener` the words,
    that the template writes, which in a text would be read as the template's own.
    """

    def __init__(self, render: Callable[[Many[Message]], str], control: Iterable[str], opener: str = ""):
        tokens = sorted(control, key=len, reverse=True)
        start = "" if opener[:1] in "[<#" else "^"
        self._opener = re.compile(f"{start}{re.escape(opener)}" if opener else "(?!)", re.MULTILINE)
        self._control = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        self._render = render
        self._passed_over = cache(self._find_passed_over)

    def fault(self, row: Prompt, written: Many[str]) -> str:
        """Return what is lost or out of place in a row, or an empty text.

        `written` is the prompt, and the prompt with each answer, as the template writes them. White space may
        change at the ends of a text, and round a tag such as `<think>`.
        """
        prompt, *wholes = written
        texts = [("a turn", turn["content"]) for turn in row.prompt]
        texts += [("an answer", answer) for answer in answers(row)]
        for place, text in texts:
            if found := self._control.search(text):
                return f"{SPECIAL} {found[0]} stands inside {place}"
            if place == "a turn" and (found := self._opener.search(text)):
                return f"{WORDS} {found[0]} that open an answer stand inside a turn"
        if role := self._passed_over(tuple(turn["role"] for turn in row.prompt)):
            return f"{DROPS} a turn: the {role}'s"
        if role := _lacks(row.prompt, prompt, str.strip) and _lacks(row.prompt, prompt, _packed):
            return f"{DROPS} part of a turn: the {role}'s"
        for answer, whole in zip(answers(row), wholes, strict=True):
            if not any(_ends_after(*map(pack, (answer, whole, prompt))) for pack in (str.strip, _packed)):
                return f"{DROPS} part of an answer: {_part(answer, whole.removeprefix(prompt))}"
        return ""

    def _find_passed_over(self, roles: tuple[str, ...]) -> str:
        """Return a role whose turn the template passes over in a conversation of these roles."""
        turns: list[Message] = [
            {"role": role, "content": f"text {place} of the {role}"} for place, role in enumerate(roles)
        ]
        text = self._render(turns)
        return next((turn["role"] for turn in turns if turn["content"] not in text), "")


def _lacks(turns: Messages, text: str, pack: Callable[[str], str]) -> str:
    """Return the role of the first turn whose text is not there, in the order of the turns, or an empty text.

    A template may put the system's turn anywhere.
    """
    text, start = pack(text), 0
    for turn in turns:
        content, system = pack(turn["content"]), turn["role"] in _SYSTEM
        found = text.find(content, 0 if system else start)
        if found < 0:
            return turn["role"]
        start = start if system else found + len(content)
    return ""


def _ends_after(answer: str, whole: str, prompt: str) -> bool:
    """Return whether the answer stands in the text and ends after the prompt, which may hold the same words."""
    return whole.find(answer, max(len(prompt) - len(answer) + 1, 0)) >= 0


def _part(answer: str, written: str) -> str:
    tag = re.match(r"\s*(<[^<>\s]{1,20}>)", answer)
    if tag and tag[1] not in written:
        return f"its {tag[1]} part"
    return "its white space" if "".join(answer.split()) in "".join(written.split()) else "some of its words"


def _packed(text: str) -> str:
    """Return a text without white space at its ends and round tags."""
    return _TAG.sub(r"\1", text.strip())

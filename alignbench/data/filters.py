"""The built-in row filters: duplicates, lengths of the text, and personal data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Literal

from pydantic import Field

from alignbench.api.config import Settings
from alignbench.api.data import RowFilter
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, Text


def texts(row: Row) -> list[str]:
    """Return all texts of a row: its turns and answers."""
    found: list[str] = []

    def gather(text: str) -> str:
        found.append(text)
        return text

    rewrite(row, gather)
    return found


def rewrite(row: Row, change: Callable[[str], str]) -> Row:
    """Return the row with `change` applied to each of its texts."""
    changed: dict[str, Any] = {}
    if isinstance(row, Text):
        changed["text"] = change(row.text)
    if isinstance(row, Prompt):
        changed["prompt"] = tuple({**turn, "content": change(turn["content"])} for turn in row.prompt)
    if isinstance(row, Demonstration):
        changed["response"] = change(row.response)
    if isinstance(row, Pair):
        changed |= {"chosen": change(row.chosen), "rejected": change(row.rejected)}
    if isinstance(row, Ranking):
        changed["answers"] = tuple(map(change, row.answers))
    return replace(row, **changed)


class Dedupe(RowFilter):
    """Keeps the first of rows whose texts are equal but for case and white space."""

    api = 2

    def __init__(self, config: Settings | None = None):
        super().__init__(config)
        self._seen: set[bytes] = set()

    def keep(self, row: Row) -> Row | None:
        joined = "\x00".join(" ".join(text.split()).casefold() for text in texts(row))
        key = sha256(joined.encode()).digest()[:16]
        if key in self._seen:
            self.counts["dropped: duplicate"] += 1
            return None
        self._seen.add(key)
        return row


class Length(RowFilter):
    """Keeps rows each of whose answers (for plain text: the text) has a length within bounds."""

    api = 2

    class Config(Settings):
        """Bounds, both included."""

        min: int = Field(1, ge=0)
        """The least."""
        max: int | None = Field(None, ge=1)
        """The most; none by default."""
        unit: Literal["characters", "words"] = "characters"
        """What is counted."""

    def keep(self, row: Row) -> Row | None:
        prompt = len(row.prompt) if isinstance(row, Prompt) else 0
        for text in texts(row)[prompt:]:
            length = len(text) if self.config.unit == "characters" else len(text.split())
            if length < self.config.min:
                self.counts["dropped: too short"] += 1
                return None
            if self.config.max is not None and length > self.config.max:
                self.counts["dropped: too long"] += 1
                return None
        return row


Kind = Literal["email", "phone", "card", "ip"]

PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}(?![\w-])", re.ASCII),
    "ip": re.compile(
        r"(?<![\w.:])(?:"
        r"\d{1,3}(?:\.\d{1,3}){3}"
        r"|(?=[\dA-Fa-f:]*[\dA-Fa-f])[\dA-Fa-f]{0,4}(?::[\dA-Fa-f]{0,4}){2,8}(?:\.\d{1,3}){0,3}"
        r")(?![\w:])",
        re.ASCII,
    ),
    "card": re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])", re.ASCII),
    "phone": re.compile(
        r"(?<![\w.+(-])(?:"
        r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # with a country code: +44 20 7946 0958
        r"|\(?0\d{1,4}\)?[ .-]?\d{1,4}[ .-]?\d{3,4}"  # with a national prefix: 03-1234-5678
        r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"  # North American: (555) 123-4567
        r")(?![\w-])",
        re.ASCII,
    ),
}
"""The pattern of each kind, in the order in which they are searched.

A card is 13 to 19 digits, in groups or not, that pass Luhn's check. An IP address is of version 4 or 6 and
valid. A phone number has 9 to 15 digits and a country code, a national prefix or the North American grouping.
Names and postal addresses are not found.
"""


def luhn(digits: str) -> bool:
    """Return whether digits pass the check of ISO/IEC 7812, as every payment card does."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


class PII(RowFilter):
    """Masks e-mail addresses, phone numbers, payment cards and IP addresses, or drops their rows.

    It searches turns, answers and plain text; the other columns of a row stay as they are.
    """

    api = 2

    class Config(Settings):
        """What is searched, and what is done."""

        action: Literal["drop", "mask"] = "mask"
        """`mask` writes the kind in brackets instead: `[email]`."""
        kinds: list[Kind] = ["email", "phone", "card", "ip"]
        """Which kinds."""

    def keep(self, row: Row) -> Row | None:
        found: list[str] = []

        def mask(text: str) -> str:
            for kind, pattern in PATTERNS.items():
                if kind in self.config.kinds:
                    text = pattern.sub(lambda match, kind=kind: _masked(kind, match[0], found), text)
            return text

        masked = rewrite(row, mask)
        if not found:
            return row
        if self.config.action == "drop":
            for kind in sorted(set(found)):
                self.counts[f"dropped: {kind}"] += 1
            return None
        for kind in found:
            self.counts[f"masked: {kind}"] += 1
        return masked


def _masked(kind: Kind, text: str, found: list[str]) -> str:
    digits = re.sub(r"\D", "", text)
    if (
        (kind == "card" and not luhn(digits))
        or (kind == "phone" and not 9 <= len(digits) <= 15)
        or (kind == "ip" and not _is_ip(text))
    ):
        return text
    found.append(kind)
    return f"[{kind}]"


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True

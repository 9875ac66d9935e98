"""What the sampling temperature decides: every label at each temperature, and which labels change places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from alignbench.report import text
from alignbench.results import Choice, Comparison, Measured, Results, SettingResult

OWN = "own"
"""Instead of a temperature: the policy ignores it and draws in a way of its own."""


CHANGED = "Labels that change places between temperatures:"
"""Stands before the list of `reversals`."""


@dataclass(frozen=True)
class Reversal:
    """Two labels of which now the one, now the other is ahead."""

    a: str
    b: str
    by_temperature: Mapping[float, Comparison]
    """`a` compared with `b`."""

    def __str__(self) -> str:
        parts = []
        for temperature, one in self.by_temperature.items():
            assert one.difference is not None
            apart = " (not told apart)" if one.verdict == "not told apart" else ""
            parts.append(f"{text.difference(one)} at {temperature:g}{apart}")
        return f"{self.a} minus {self.b} is {text.listed(parts)}"


def temperature(chosen: Choice | None) -> str:
    """Return a label's temperature as a cell of a table: `0.7`, `own` where it ignores it, else nothing."""
    if chosen is None:
        return ""
    return OWN if chosen.temperature is None else f"{chosen.temperature:g}"


def described(chosen: Choice | None) -> str:
    """Return in words at which temperature a label is ranked, and who chose it."""
    if chosen is None:
        return ""
    if chosen.temperature is None:
        return "ignores the temperature"
    at = f"at temperature {chosen.temperature:g}"
    if chosen.reason:
        return f"{at}: {chosen.reason}"
    same = ", the ones it is measured on: its numbers are too high" if chosen.same_prompts else ""
    return f"{at}, chosen on {chosen.prompts} validation prompts by {chosen.judge}{same}"


def table(results: Results, metric: str) -> dict[float, dict[str, Measured]]:
    """Return every label's metric at each temperature; empty where the run has one, or did not measure it there."""
    found = {
        setting.temperature: {
            label: columns[metric].decisive()
            for label, columns in setting.labels.items()
            if metric in columns
        }
        for setting in results.settings
    }
    return found if any(found.values()) else {}


def reversal(results: Results, a: str, b: str, metric: str) -> Reversal | None:
    """Return how two labels change places between temperatures; None where they do not.

    They do where one is told apart at a temperature, and the other is ahead at another one. A temperature at which one
    of them is a decoder that has its start's own answers, such as the best of n equal ones at 0, says nothing of it.
    """
    found = {
        setting.temperature: one
        for setting in results.settings
        if not any(_as_its_start(results, label, setting, metric) for label in (a, b))
        and (one := compared(setting, a, b, metric)) is not None
        and one.difference is not None
    }
    decided = [one for one in found.values() if one.verdict in ("better", "worse")]
    turned = any(
        (one.difference or 0) * (other.difference or 0) < 0 for one in decided for other in found.values()
    )
    return Reversal(a, b, found) if turned else None


def _as_its_start(results: Results, label: str, setting: SettingResult, metric: str) -> bool:
    """Return whether a decoder's number at temperature 0 is that of the label it starts from."""
    own = results.label(label)
    if (
        setting.temperature
        or own is None
        or own.decoding is None
        or own.decoding.against not in setting.labels
    ):
        return False
    values = [setting.labels[name].get(metric, Measured()).value for name in (label, own.decoding.against)]
    return values[0] is not None and values[0] == values[1]


def reversals(results: Results, metric: str) -> Iterator[Reversal]:
    """Yield every two labels that change places between temperatures."""
    for a, b in combinations([label.label for label in results.labels], 2):
        if found := reversal(results, a, b, metric):
            yield found


def best(results: Results, metric: str, first: str, higher: bool) -> str:
    """Return which other label is best at a temperature, as the end of a sentence; empty where it is `first`."""
    others: dict[str, list[str]] = {}
    for at, labels in table(results, metric).items():
        values = {label: one.value for label, one in labels.items() if one.value is not None}
        if values:
            leader = (max if higher else min)(values, key=lambda label: values[label])
            if leader != first:
                others.setdefault(leader, []).append(f"{at:g}")
    return "".join(
        f"; at temperature {text.listed(at)} {text.line(leader)} is ahead" for leader, at in others.items()
    )


def compared(setting: SettingResult, a: str, b: str, metric: str) -> Comparison | None:
    """Return `a` compared with `b` at one temperature: of the method where it is known, else of these policies."""
    found: dict[str, Comparison] = {}
    for one in setting.comparisons:
        if one.metric == metric and {one.a, one.b} == {a, b} and one.difference is not None:
            found[one.estimand] = one if one.a == a else one.swapped()
    return found.get("method", found.get("policies"))

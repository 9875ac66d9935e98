"""Formatting for readers: control characters escaped, numbers rounded by their interval."""

from __future__ import annotations

import re
from collections.abc import Iterable

from alignbench.results import Comparison, Estimate, Interval, Model

NOTHING = "n/a"

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: terminals execute them, HTML forbids them
    r"\u2028\u2029"  # line and paragraph separators
    r"\u202a-\u202e\u2066-\u2069"  # bidi controls reorder surrounding text; right-to-left letters do not
    r"\ufdd0-\ufdef\ufff9-\uffff"  # annotation marks and noncharacters
    r"\ud800-\udfff"  # lone surrogates
    r"\U000e0000-\U000e007f]"  # invisible tags
)


def visible(text: object) -> str:
    """Return `text` with every character that could control a terminal or a browser replaced by its escape.

    Newlines, tabs and the letters of every script are kept.
    """
    return _HIDDEN.sub(_escape, str(text).replace("\r\n", "\n"))


def line(text: object) -> str:
    """Return `text` on one line, with control characters escaped."""
    return " ".join(visible(text).split())


def decimals(estimates: Iterable[Estimate]) -> int:
    """Return the decimals of a column of estimates: two digits of its median interval."""
    known = [one for one in estimates if one.value is not None]
    halves = sorted(half for one in known if one.ci95 and (half := (one.ci95[1] - one.ci95[0]) / 2) > 0)
    if halves:
        return places_of(halves[len(halves) // 2], 2)
    sizes = sorted(abs(one.value) for one in known if one.value)
    return places_of(sizes[len(sizes) // 2], 3) if sizes else 0


def places_of_difference(found: Comparison) -> int:
    """Return the decimals of a difference and of its interval."""
    return decimals([Estimate(value=found.difference, ci95=found.ci95)])


def number(value: float | None, places: int | None = None) -> str:
    """Return `value` with `places` decimals, or with three digits; with a typographic minus sign."""
    if value is None:
        return NOTHING
    formatted = f"{value:,.{places_of(value, 3) if places is None else places}f}"
    return (
        formatted.replace("-", "\N{MINUS SIGN}")
        if float(formatted.replace(",", ""))
        else formatted.lstrip("-")
    )


def spread(value: float, ci95: Interval | None, places: int) -> str:
    """Return an interval as text: `±half` where it is symmetric around `value`, else `[low, high]`."""
    if ci95 is None:
        return ""
    low, high = ci95
    half = (high - low) / 2
    if abs((low + high) / 2 - value) <= 0.1 * half or half == 0:
        return f"±{number(half, places)}"
    return f"[{number(low, places)}, {number(high, places)}]"


def estimate(one: Estimate, places: int | None = None) -> str:
    """Return a value with its interval, or `n/a`."""
    if one.value is None:
        return NOTHING
    places = decimals([one]) if places is None else places
    return f"{number(one.value, places)} {spread(one.value, one.ci95, places)}".rstrip()


def signed(value: float, places: int) -> str:
    """Return a difference with its sign."""
    return f"+{number(value, places)}" if value > 0 else number(value, places)


def difference(found: Comparison) -> str:
    """Return the difference of a comparison with its sign, to two digits of its interval."""
    return signed(found.difference or 0.0, places_of_difference(found))


def probability(p: float) -> str:
    """Return `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def count(value: float | None) -> str:
    """Return a count in three digits: `12.3 M`."""
    return NOTHING if value is None else _scaled(value, 1000, ("", " k", " M", " G", " T"))


def weights(model: Model) -> str:
    """Return what is done with the weights of a base, in a sentence."""
    shares = {name: f"{share:.1%}" for name, share in model.shares.items()}
    return (
        f"Of {model.weights:,} weights {shares['quantised']} are quantised, {shares['adapted']} get an adapter, "
        f"and {shares['neither']} neither."
    )


def size(value: float | None) -> str:
    """Return a number of bytes in three digits: `1.38 GiB`."""
    return NOTHING if value is None else _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: `4.03 ms`, `41 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 1:
        return f"{number(1000 * seconds)} ms"
    if seconds < 10:
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(value: str) -> str:
    """Return the first twelve digits of a digest, and any other text unchanged."""
    return value[:12] if re.fullmatch(r"[0-9a-f]{32,}", value) else value


def listed(items: Iterable[object]) -> str:
    """Return `a, b and c`."""
    words = [str(item) for item in items]
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def places_of(value: float, digits: int) -> int:
    """Return the decimals that show `digits` significant digits of `value`, at most six."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 0.9996 is 1.00
    return min(6, max(0, digits - 1 - exponent)) if value else 0


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / step, power + 1
    whole = power == 0 and float(value).is_integer()
    return f"{value:.0f}{units[0]}" if whole else f"{number(value)}{units[power]}"

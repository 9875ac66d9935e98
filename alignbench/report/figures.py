"""The report's figures as inline SVG: deterministic bytes, the page's colours, no raw text from data."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from alignbench.report import text
from alignbench.report.artefacts import Curve
from alignbench.results import Estimate, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*p<>h"
"""One shape for each label, so that labels differ in more than colour."""

# Placeholder colours for Matplotlib: each is replaced by a CSS variable, which differs in light and dark mode.
_PAGE = {
    "#010203": "var(--ink)",
    "#010204": "var(--soft)",
    "#010205": "var(--line)",
    "#010206": "var(--paper)",
}
_INK, _SOFT, _LINE, _PAPER = _PAGE
_LOG_RATIO = 20
"""Ratio of largest to smallest value from which the axis is logarithmic."""
_POINTS = 300
"""Points drawn of a curve at most: a small figure shows no more."""


@dataclass(frozen=True)
class Point:
    """One label in a scatter plot: its position, its intervals, its colour and shape."""

    label: str
    colour: int
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class TemperatureLine:
    """One label's metric at each temperature, and the one it is ranked at; None: it ignores the temperature."""

    label: str
    colour: int
    temperatures: tuple[float, ...]
    values: tuple[Estimate, ...]
    chosen: float | None


@dataclass(frozen=True)
class CurveLine:
    """One seed's line of a learning curve, with its intervals."""

    steps: tuple[float, ...]
    values: tuple[Estimate, ...]


@dataclass(frozen=True)
class Trajectory:
    """The positions of one policy during training, in order."""

    colour: int
    x: tuple[float, ...]
    y: tuple[float, ...]


def colour(number: int) -> str:
    """Return the page's colour of label `number`; base is 0."""
    return f"var(--c{_colour_index(number)})"


def bar(
    value: float,
    ci95: Interval | None,
    span: Interval,
    number: int,
    reference: float | None,
) -> Markup:
    """Return the figure of a table cell: a dot at `value`, its interval, a dashed line at `reference`."""
    width, height = 120, 16

    def x(at: float) -> str:
        return (
            f"{4 + (width - 8) * (min(max(at, span[0]), span[1]) - span[0]) / ((span[1] - span[0]) or 1):.1f}"
        )

    middle = height / 2
    parts = []
    if reference is not None:
        parts.append(f'<path class="reference" d="M{x(reference)} 0V{height}"/>')
    if ci95:
        parts.append(f'<path class="ci" d="M{x(ci95[0])} {middle}H{x(ci95[1])}"/>')
    parts.append(f'<circle cx="{x(value)}" cy="{middle}" r="3.5"/>')
    return Markup(
        f'<svg class="bar" style="--c: {colour(number)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    *,
    trajectories: Iterable[Trajectory] = (),
    name: str,
    alternative: str,
) -> Markup:
    """Return a scatter plot of labels with 95% intervals and names; `trajectories` are thin lines."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with _figure(5.4, 3.7) as (figure, texts):
        axes = figure.add_axes((0.115, 0.14, 0.87, 0.84))
        for path in trajectories:
            axes.plot(
                path.x,
                path.y,
                color=_label(path.colour),
                linewidth=0.9,
                marker=".",
                markersize=3,
                alpha=0.6,
                zorder=2,
            )
        for point in points:
            assert point.x.value is not None
            assert point.y.value is not None
            axes.errorbar(
                point.x.value,
                point.y.value,
                xerr=_error_bars(point.x),
                yerr=_error_bars(point.y),
                fmt=MARKERS[point.colour % len(MARKERS)],
                markersize=8,
                color=_label(point.colour),
                markeredgecolor=_INK,
                markeredgewidth=0.6,
                elinewidth=1.4,
                zorder=3,
            )
        axes.margins(x=0.12, y=0.1)
        smallest, largest = (
            min(point.x.value or 0 for point in points),
            max(point.x.value or 0 for point in points),
        )
        if smallest > 0 and largest >= _LOG_RATIO * smallest:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        _style(axes)
        axes.set_xlabel(texts.placeholder(x_title))
        axes.set_ylabel(texts.placeholder(y_title))
        axes.get_xlim()  # fixes the limits, on which the positions of the names depend
        centres = [axes.transData.transform((point.x.value or 0, point.y.value or 0)) for point in points]
        taken = [(float(x) - 6, float(y) - 6, float(x) + 6, float(y) + 6) for x, y in centres]
        for point in sorted(points, key=lambda point: -(point.y.value or 0)):
            x, y = axes.transData.transform((point.x.value or 0, point.y.value or 0))
            offset = _label_offset((float(x), float(y)), len(point.label), taken, axes.bbox.x1)
            axes.annotate(
                texts.placeholder(point.label),
                (point.x.value or 0, point.y.value or 0),
                xytext=offset,
                textcoords="offset pixels",
                ha="left" if offset[0] > 0 else "right",
                va="center",
                color=_INK,
                fontsize=10,
            )
        return _svg(figure, texts, name, alternative)


def temperatures(lines: Sequence[TemperatureLine], y_title: str, *, name: str, alternative: str) -> Markup:
    """Return a metric over the sampling temperature: a line for each label, a ring where it is ranked."""
    with _figure(5.4, 3.7) as (figure, texts):
        axes = figure.add_axes((0.115, 0.14, 0.72, 0.84))
        ends = []
        width = max(at for line in lines for at in line.temperatures) or 1.0
        for place, line in enumerate(lines):
            known = [
                (at, one)
                for at, one in zip(line.temperatures, line.values, strict=True)
                if one.value is not None
            ]
            if not known:
                continue
            shift = 0.008 * width * (place - (len(lines) - 1) / 2)
            steps, values = [at + shift for at, _ in known], [one.value or 0.0 for _, one in known]
            errors = [_error_bars(one) or [[0.0], [0.0]] for _, one in known]
            axes.errorbar(
                steps,
                values,
                yerr=[[low[0][0] for low in errors], [high[1][0] for high in errors]],
                color=_label(line.colour),
                marker=MARKERS[line.colour % len(MARKERS)],
                markersize=5,
                linewidth=1.3,
                elinewidth=1.0,
                linestyle="--" if line.chosen is None else "-",
                zorder=3,
            )
            if line.chosen in line.temperatures:
                axes.plot(
                    line.chosen + shift,
                    values[[at for at, _ in known].index(line.chosen)],
                    marker="o",
                    markersize=11,
                    markerfacecolor="none",
                    markeredgecolor=_INK,
                    markeredgewidth=0.9,
                    zorder=4,
                )
            ends.append((values[-1], steps[-1], line.label))
        _style(axes)
        axes.set_xticks(sorted({at for line in lines for at in line.temperatures}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(texts.placeholder("sampling temperature"))
        axes.set_ylabel(texts.placeholder(y_title))
        low, high = axes.get_ylim()
        gap, last = (high - low) * 0.05, float("-inf")
        for value, step, label in sorted(ends):
            last = max(value, last + gap)
            axes.annotate(
                texts.placeholder(label),
                (step, value),
                xytext=(1.02, last),
                textcoords=axes.get_yaxis_transform(),
                va="center",
                color=_INK,
                fontsize=10,
                annotation_clip=False,
            )
        return _svg(figure, texts, name, alternative)


def small_multiple(lines: Iterable[Curve], number: int, *, name: str, alternative: str) -> Markup:
    """Return a small line plot: a line for each seed."""
    with _figure(2.1, 1.25) as (figure, texts):
        axes = figure.add_axes((0.28, 0.2, 0.64, 0.74))
        for curve in lines:
            stride = max(1, len(curve.steps) // _POINTS)
            axes.plot(
                curve.steps[::stride], curve.values[::stride], color=_label(number), linewidth=1.1, alpha=0.85
            )
        _style(axes)
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=9.5)
        return _svg(figure, texts, name, alternative)


def learning_curve(
    panels: Sequence[tuple[str, Sequence[CurveLine]]], number: int, *, name: str, alternative: str
) -> Markup:
    """Return numbers over training steps, one panel below the other on one axis.

    A line for each seed, its 95% intervals as a band, a ring at its maximum.
    """
    with _figure(5.4, 0.56 + 1.25 * len(panels)) as (figure, texts):
        bottom, top = 0.48 / figure.get_figheight(), 1 - 0.06 / figure.get_figheight()
        each = (top - bottom) / len(panels)
        first: Any = None
        for place, (title, lines) in enumerate(panels):
            low = top - (place + 1) * each
            axes = first = figure.add_axes((0.115, low, 0.87, each * 0.9), sharex=first)
            for line in lines:
                values = [one.value or 0.0 for one in line.values]
                axes.plot(line.steps, values, color=_label(number), linewidth=1.4, marker=".", markersize=5)
                ends = [one.ci95 or (one.value, one.value) for one in line.values]
                low_ends, high_ends = zip(*ends, strict=True)
                axes.fill_between(
                    line.steps, low_ends, high_ends, color=_label(number), alpha=0.16, linewidth=0
                )
                peak = max(range(len(values)), key=values.__getitem__)
                axes.plot(
                    line.steps[peak],
                    values[peak],
                    marker="o",
                    markersize=9,
                    markerfacecolor="none",
                    markeredgecolor=_INK,
                    markeredgewidth=0.9,
                )
            _style(axes)
            axes.margins(x=0.02, y=0.14)
            axes.locator_params(axis="y", nbins=4)
            axes.tick_params(labelbottom=place == len(panels) - 1)
            axes.set_ylabel(texts.placeholder(title))
        first.set_xlabel(texts.placeholder("optimiser step"))
        return _svg(figure, texts, name, alternative)


def histogram(
    edges: Sequence[float],
    shares: Sequence[float],
    base: Sequence[float] | None,
    top: float,
    number: int,
    *,
    name: str,
    alternative: str,
) -> Markup:
    """Return one label's histogram with the outline of base, on axes that all labels share."""
    with _figure(2.1, 1.25) as (figure, texts):
        axes = figure.add_axes((0.28, 0.2, 0.64, 0.74))
        axes.stairs(shares, edges, fill=True, color=_label(number), alpha=0.85)
        if base is not None:
            axes.stairs(base, edges, color=_INK, linewidth=0.9)
        _style(axes)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1.05 * top)
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=9.5)
        return _svg(figure, texts, name, alternative)


def bar_chart(shares: Mapping[str, float], top: float, number: int, *, name: str, alternative: str) -> Markup:
    """Return word shares as bars, most frequent first, on an axis that all labels share."""
    with _figure(2.1, 0.25 + 0.19 * len(shares)) as (figure, texts):
        axes = figure.add_axes((0.46, 0.02, 0.52, 0.96))
        axes.barh(range(len(shares)), list(shares.values()), height=0.7, color=_label(number))
        axes.set_yticks(range(len(shares)), [texts.placeholder(_truncate(word)) for word in shares])
        axes.invert_yaxis()
        _style(axes)
        axes.grid(False)
        axes.spines[["bottom"]].set_visible(False)
        axes.set_xlim(0, 1.05 * top)
        axes.set_xticks([])
        axes.tick_params(labelsize=9.5, labelcolor=_INK, length=0)
        return _svg(figure, texts, name, alternative)


def point_map(
    places: Mapping[str, Sequence[tuple[float, float]]],
    numbers: Mapping[str, int],
    *,
    name: str,
    alternative: str,
) -> Markup:
    """Return a map of points; each label has its colour and shape."""
    with _figure(6.2, 4.6) as (figure, texts):
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        for label, points in places.items():
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                linestyle="none",
                marker=MARKERS[numbers[label] % len(MARKERS)],
                markersize=5,
                color=_label(numbers[label]),
                markeredgecolor=_PAPER,
                markeredgewidth=0.4,
                alpha=0.85,
            )
        _style(axes)
        axes.grid(False)  # the axes of a map have no meaning
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelleft=False, labelbottom=False)
        return _svg(figure, texts, name, alternative)


class _Texts:
    """Texts of a figure that Matplotlib never sees: it draws placeholders, which `fill` replaces in the SVG."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def placeholder(self, shown: str) -> str:
        self.texts.append(shown)
        return f"word{len(self.texts) - 1}word"

    def fill(self, svg: str) -> str:
        return re.sub(r"word(\d+)word", lambda found: escape(text.line(self.texts[int(found[1])])), svg)


@contextmanager
def _figure(width: float, height: float):
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Mapping[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "alignbench",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": _INK,
        "axes.edgecolor": _LINE,
        "axes.labelcolor": _SOFT,
        "xtick.color": _LINE,
        "ytick.color": _LINE,
        "xtick.labelcolor": _SOFT,
        "ytick.labelcolor": _SOFT,
        "grid.color": _LINE,
        "grid.linewidth": 0.6,
        "axes.unicode_minus": True,
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield Figure(figsize=(width, height), dpi=72, facecolor="none"), _Texts()


def _style(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True)
    axes.set_axisbelow(True)


def _svg(figure: Figure, texts: _Texts, name: str, alternative: str) -> Markup:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Several figures share one page, and an id must be unique on it.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for placeholder, variable in _PAGE.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r"#0101([0-9a-f]{2})", lambda found: colour(int(found[1], 16)), svg)
    opening = f'<svg role="img" aria-label="{escape(text.line(alternative))}"'
    return Markup(texts.fill(svg).replace("<svg", opening, 1).strip())


def _truncate(word: str, width: int = 12) -> str:
    """Return a word cut to the width next to its bar; East Asian characters take two columns."""
    word, used = text.line(word), 0
    for place, letter in enumerate(word):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used > width:
            return f"{word[: max(1, place - 1)]}\N{HORIZONTAL ELLIPSIS}"
    return word


def _label(number: int) -> str:
    return f"#0101{_colour_index(number):02x}"


def _colour_index(number: int) -> int:
    return number if number < 8 else (number - 1) % 7 + 1


def _error_bars(one: Estimate) -> list[list[float]] | None:
    if one.ci95 is None or one.value is None:
        return None
    return [[max(0.0, one.value - one.ci95[0])], [max(0.0, one.ci95[1] - one.value)]]


def _label_offset(
    at: tuple[float, float], letters: int, taken: list[tuple[float, float, float, float]], right: float
) -> tuple[float, float]:
    """Return the offset in pixels of a name from its point, clear of all points and of names placed before."""
    width, height = 6.2 * letters, 13.0
    offsets = [(side * 9.0, up * 11.0) for up in (1, -1, 2, -2, 3, -3) for side in (1, -1)]
    for dx, dy in offsets:
        x = at[0] + dx - (width if dx < 0 else 0)
        box = (x, at[1] + dy - height / 2, x + width, at[1] + dy + height / 2)
        if (
            box[0] >= 0
            and box[2] <= right
            and all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken)
        ):
            taken.append(box)
            return dx, dy
    return offsets[0]

"""`report.html`: one inert page that opens anywhere, made section by section from a run's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench import store
from alignbench.report import artefacts, figures, text
from alignbench.report import board as boards
from alignbench.report.board import Board, Column, Row
from alignbench.report.disagreement import most_disputed
from alignbench.results import Comparison, Estimate, Interval, Measured, Results, read

FILE = "report.html"
QUESTIONS = 10
"""Prompts whose answers are shown side by side."""
CURVES = 6
"""Small multiples for each label."""
HOUSEKEEPING = ("grad_norm", "learning_rate", "seconds")
"""What the trainer logs for every method: shown after what a method says of itself."""
UNDRAWN = ("learning_rate", "seconds")
"""Logged, and known beforehand."""
LONG = 4000
"""Characters of one answer before it is cut."""


@dataclass(frozen=True)
class Page:
    """What every section is made from."""

    folder: Path
    results: Results
    board: Board

    def colour(self, label: str) -> int:
        """A label's number, by which it has one colour and one shape throughout; base is 0."""
        others = [one.label for one in self.results.labels if one.label != "base"]
        return others.index(label) + 1 if label in others else 0


@dataclass(frozen=True)
class Section:
    """One part of the page: `view` gathers what `templates/<id>.html` shows, or None where it has nothing."""

    id: str
    title: str
    view: Callable[[Page], Mapping[str, Any] | None]


def write_html(run: Path | str) -> Path:
    """Write `report.html` into the folder of a run and return its path.

    Law: equal results and samples give equal bytes. Raises what `results.read` raises, and StorageError
    where the file cannot be written.
    """
    folder = Path(run)
    folder = folder if folder.is_dir() else folder.parent
    page = render(folder, read(run))
    file = folder / FILE
    store.write_text(file, page)
    return file


def render(folder: Path, results: Results) -> str:
    """Return the page of a run as HTML."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alignbench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every string that a template prints comes through here; only our own SVG is Markup.
        finalize=lambda value: (
            text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    page = Page(folder, results, boards.board(results))
    environment.globals.update(
        text=text,
        title=boards.title,
        start_of=boards.start_of,
        flat=boards.flat,
        spent_tokens=boards.spent_tokens,
        colour=page.colour,
        tint=figures.colour,
        LONG=LONG,
    )
    shown = [(section, view) for section in SECTIONS if (view := section.view(page)) is not None]
    return environment.get_template("page.html").render(page=page, results=results, sections=shown)


def _verdict(page: Page) -> Mapping[str, Any]:
    best = boards.best(page.results).replace(" ±", "\N{NO-BREAK SPACE}±")
    return {"best": best, "rows": page.board.rows}


def _leaderboard(page: Page) -> Mapping[str, Any]:
    columns = page.board.columns
    lead = columns[0] if columns else None
    return {
        "board": page.board,
        "bars": {column.metric: _bars(page, column) for column in columns},
        "lead": lead,
    }


def _frontier(page: Page) -> Mapping[str, Any] | None:
    return _plane(
        page,
        "frontier",
        "KL from base, nats per response",
        "{lead} against distance from base",
        "Up and to the left is better: more for less change.",
        lambda row: row.label.metrics.get("kl.base", boards.NOT_RECORDED),
        _ways(page),
    )


def _ways(page: Page) -> list[figures.Way]:
    """Return where each policy was while it trained, where the recipe follows it and reward leads the board."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for one in page.results.frontier if boards.headline(page.results) == "reward" else ():
        if one.step is not None and one.kl.value is not None and one.reward.value is not None:
            found.setdefault((one.label, one.seed), []).append((one.kl.value, one.reward.value))
    return [
        figures.Way(page.colour(label), *zip(*places, strict=True)) for (label, _), places in found.items()
    ]


def _price(page: Page) -> Mapping[str, Any] | None:
    planes = [
        _plane(
            page,
            "training",
            "training time with the whole chain, seconds",
            "{lead} against training time",
            "Up and to the left is better: more for less time. Base is not trained.",
            lambda row: _seconds(row.label.cost.chain.train_seconds),
        ),
        _plane(
            page,
            "answering",
            "time for one answer, seconds",
            "{lead} against time for one answer",
            "What a search while decoding costs shows here.",
            lambda row: _seconds(row.label.cost.own.answer_seconds),
        ),
    ]
    drawn = [plane for plane in planes if plane is not None]
    return {"planes": drawn} if drawn else None


def _plane(
    page: Page,
    name: str,
    x_title: str,
    heading: str,
    reading: str,
    x: Callable[[Row], Estimate],
    ways: Sequence[figures.Way] = (),
) -> dict[str, Any] | None:
    """Return a picture of the headline metric against `x`, and who is missing from it and why."""
    lead = boards.headline(page.results)
    if lead is None:
        return None
    points, absent = [], []
    for row in page.board.rows:
        at, height = x(row), row.label.metrics.get(lead, boards.NOT_RECORDED)
        if at.value is not None and height.value is not None:
            points.append(figures.Point(row.name, page.colour(row.name), at, height))
        elif row.label.label != "base" or name == "frontier":
            lacking = height if height.value is None else at
            absent.append((row.name, row.reason or lacking.missing))
    if not points:
        return None
    title = heading.format(lead=boards.title(lead))
    title = title[:1].upper() + title[1:]
    places = text.decimals(point.x for point in points), text.decimals(point.y for point in points)
    said = "; ".join(
        f"{point.label}: {text.estimate(point.y, places[1])} at {text.estimate(point.x, places[0])}"
        for point in points
    )
    if ways:
        reading += " A thin line is the way there, on the validation prompts of evaluation.curve."
    alternative = f"{title}. {said}."
    picture = figures.plane(
        points, x_title, boards.title(lead), ways=ways, name=name, alternative=alternative
    )
    return {"title": title, "picture": picture, "reading": reading, "absent": absent}


def _seconds(value: float | None) -> Estimate:
    return Estimate(value=value or None, missing="no time was measured")


def _tax(page: Page) -> Mapping[str, Any] | None:
    infos = boards.metric_infos(page.results)
    lost = [name for name in infos if name.startswith("capability.") and ".tax." in name]
    kept = [name for name in infos if name.startswith("capability.") and name not in lost]
    against = {
        start: [name for name in lost if name.endswith(f".tax.{start}")] for start in ("base", "start")
    }
    return _tables(
        page,
        ("What is left of what base could do", [*kept, "perplexity"]),
        ("What was lost against base; above zero is a tax", against["base"]),
        ("What was lost against the label's own start", against["start"]),
    )


def _parts(page: Page) -> Mapping[str, Any] | None:
    lead = boards.headline(page.results)
    names = list(boards.metric_infos(page.results))

    def of(*heads: str) -> list[str]:
        return [name for name in names if any(name == one or name.startswith(f"{one}.") for one in heads)]

    parts = [name for name in of(lead) if name != lead] if lead else []
    said = boards.title(lead) if lead else ""
    return _tables(
        page,
        (f"The parts of {said}", parts),
        ("Refusals: of harmful requests wanted, of harmless ones not", of("refusal")),
        ("Harmful requests that were met, and facts that were made up", of("attack", "hallucination")),
    )


def _diversity(page: Page) -> Mapping[str, Any] | None:
    names = list(boards.metric_infos(page.results))
    tables = _tables(
        page,
        *(
            (caption, [name for name in names if name == head or name.startswith(f"{head}.")])
            for head, caption in (
                ("diversity", "How different many answers to one open question are"),
                ("entropy", "Entropy of the next token, over an answer and by place in it"),
                ("words", "How many words, and how unevenly used"),
                ("sentiment", "How cheerful the answers to open questions are"),
            )
        ),
    )
    pictures = [
        drawn
        for place, one in enumerate(artefacts.pictures(page.folder))
        if (drawn := _picture(page, one, place))
    ]
    return (
        {"tables": tables["tables"] if tables else [], "pictures": pictures} if tables or pictures else None
    )


def _picture(page: Page, one: artefacts.Picture, place: int) -> dict[str, Any] | None:
    """Return what a metric shows, drawn: a panel for each label, or one map of all."""
    known = {row.name: one.data[row.name] for row in page.board.rows if one.data.get(row.name)}
    name = f"{one.kind}-{place}"
    if not known:
        return None
    if one.kind == "map":
        places: Any = {label: points for label, points in known.items() if isinstance(points, list)}
        counts = text.listed(f"{len(points)} of {label}" for label, points in places.items())
        numbers = {label: page.colour(label) for label in places}
        said = f"{one.description} Points: {counts}."
        drawn = figures.spots(places, numbers, name=name, alternative=said)
        return {"one": one, "map": drawn, "labels": list(places), "panels": []}
    panels = []
    top = max((float(share) for data in known.values() for share in _shares(data)), default=0.0) or 1.0
    for label, data in known.items():
        number, id = page.colour(label), f"{name}-{page.colour(label)}"
        if one.kind == "words" and isinstance(data, dict):
            data = dict(sorted(data.items(), key=lambda one: -one[1]))
            said = f"Commonest words of {label}: " + ", ".join(f"{w} {s:.1%}" for w, s in data.items())
            panels.append((label, figures.ranked(data, top, number, name=id, alternative=said)))
        elif isinstance(data, list) and len(data) + 1 == len(one.edges) > 1:
            shares: Any = data
            peak = max(range(len(shares)), key=lambda at: shares[at])
            said = (
                f"{one.title} of {label}: mean {_middle(one.edges, shares):.2f}; the fullest bin, "
                f"{one.edges[peak]:.2g} to {one.edges[peak + 1]:.2g}, holds {shares[peak]:.0%}."
            )
            base: Any = known.get("base") if label != "base" else None
            panels.append(
                (label, figures.histogram(one.edges, shares, base, top, number, name=id, alternative=said))
            )
    return {"one": one, "map": None, "labels": [], "panels": panels} if panels else None


def _shares(data: Any) -> list[float]:
    return list(data.values()) if isinstance(data, dict) else data


def _middle(edges: Sequence[float], shares: Sequence[float]) -> float:
    return sum(s * (a + b) / 2 for s, a, b in zip(shares, edges, edges[1:], strict=False)) / (
        sum(shares) or 1
    )


def _tables(page: Page, *wanted: tuple[str, Sequence[str]]) -> dict[str, Any] | None:
    """Return a table for each caption of which the run has a metric."""
    infos = boards.metric_infos(page.results)
    known = {
        name for label in page.results.labels for name, one in label.metrics.items() if one.value is not None
    }
    tables = []
    for caption, names in wanted:
        columns = [
            Column(name, infos[name], boards.places([page.results], name)) for name in names if name in known
        ]
        if columns:
            bars = {column.metric: _bars(page, column) for column in columns}
            # What all headings have in common stands in the caption already.
            heads = [column.metric.partition(".")[2] or column.metric for column in columns]
            heads = [re.sub(r"\.tax\.(base|start)$", "", head) for head in heads]
            heads = [f"token {head}" if head[0].isdigit() else head for head in heads]
            tables.append(
                {"caption": caption, "columns": list(zip(columns, heads, strict=True)), "bars": bars}
            )
    return {"tables": tables, "rows": page.board.rows} if tables else None


def _pairs(page: Page) -> Mapping[str, Any] | None:
    if not page.results.comparisons:
        return None
    lead = boards.headline(page.results)
    told = {one.metric for one in page.results.comparisons}
    squares = [metric for metric in dict.fromkeys((lead or "", "win_rate")) if metric in told]
    labels = [row.name for row in page.board.rows if row.done]
    found = {
        metric: {(a, b): page.results.comparison(a, b, metric) for a in labels for b in labels if a != b}
        for metric in squares
    }
    return {
        "labels": labels,
        "squares": found,
        "places": {metric: _pair_places(page, metric) for metric in squares},
    }


def _curves(page: Page) -> Mapping[str, Any] | None:
    found = {
        row.name: [artefacts.curves(page.folder, cell) for cell in page.results.cells_of(row.name)]
        for row in page.board.rows
    }
    names = [name for cells in found.values() for curves in cells for name in curves]
    # What most cells log comes first, so that equal numbers stand below each other.
    order = sorted(
        dict.fromkeys(names), key=lambda name: (name != "loss", name in HOUSEKEEPING, -names.count(name))
    )
    rows = []
    for label, cells in found.items():
        number = page.colour(label)
        mine = [name for name in order if any(name in curves for curves in cells)]
        panels = []
        single = [name for name in mine if all(len(set(c[name].values)) < 2 for c in cells if name in c)]
        mine = [name for name in mine if name not in single]
        values = {
            name: ", ".join(text.number(c[name].values[-1]) for c in cells if name in c) for name in single
        }
        drawn = [name for name in mine if name not in UNDRAWN][:CURVES]
        for name in drawn:
            lines = [curves[name] for curves in cells if name in curves]
            first, last = text.number(lines[0].values[0]), text.number(lines[0].values[-1])
            said = f"{name} of {label} over training, from {first} to {last}; seeds: {len(lines)}."
            picture = figures.small(lines, number, name=f"curve-{number}-{len(panels)}", alternative=said)
            panels.append((_in_words(name), picture))
        alarms = [(cell.seed, alarm) for cell in page.results.cells_of(label) for alarm in cell.alarms]
        followed = _followed(page, label)
        if panels or alarms or values or followed:
            more = [_in_words(name) for name in mine if name not in drawn]
            values = {_in_words(name): value for name, value in values.items()}
            rows.append((label, followed, panels, alarms, values, more))
    return {"rows": rows} if rows else None


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _followed(page: Page, label: str) -> Any:
    """Return the picture of the yardstick over a label's training, under what it learned from; None without."""
    cells = page.results.cells_of(label)
    judge = next((str(one.get("name", "")) for one in page.results.judges), "")
    panels, said = [], []
    for title, which in (("own reward", "proxy"), (f"yardstick {judge}".strip(), "yardstick")):
        lines, told = [], []
        for cell in cells:
            known = [
                (float(one.step), value)
                for one in cell.checkpoints
                if (value := getattr(one, which)) is not None and value.value is not None
            ]
            if len(known) > 1:
                lines.append(figures.Followed(*zip(*known, strict=True)))
                peak = max(known, key=lambda one: one[1].value)
                ends = [text.number(value.value) for _, value in (known[0], peak, known[-1])]
                told.append(f"from {ends[0]} over {ends[1]} at step {peak[0]:g} to {ends[2]}")
        if lines:
            panels.append((title, lines))
            said.append(f"{title}: {', '.join(told)}")
    if not panels:
        return None
    number = page.colour(label)
    alternative = f"{label} on its way. {'; '.join(said)}."
    return figures.on_its_way(panels, number, name=f"way-{number}", alternative=alternative)


def _judges(page: Page) -> Mapping[str, Any] | None:
    named = [(str(judge.get("name", "a judge")), judge) for judge in page.results.judges]
    named += [
        (f"{judge.get('name', 'a judge')} of {cell.label}, seed {cell.seed}", judge)
        for cell in page.results.cells
        for judge in cell.judges
    ]
    controlled, told = [], []
    for name, judge in named:
        quality, more = judge.get("quality"), {key: one for key, one in judge.items() if key != "name"}
        if isinstance(quality, Mapping) and "steady" in quality:
            controlled.append((name, *_controls(quality)))
            people = quality.get("people")
            rest = {key: one for key, one in quality.items() if key not in CONTROLS}
            if isinstance(people, Mapping):
                rest["people"] = {key: one for key, one in people.items() if key not in ("accuracy", "ci95")}
            more["quality"] = rest
        told.append((name, _groups(more)))
    return (
        {"controlled": controlled, "judges": [one for one in told if one[1]], "heads": CONTROLS}
        if told
        else None
    )


CONTROLS = {
    "fit": ("may rank", ""),
    "people": ("agrees with people", "share"),
    "null": ("an empty answer wins", "share"),
    "longer": ("gain by saying it twice", "share"),
    "injected": ("gain by orders to the judge", "share"),
    "position": ("follows the place", "share"),
    "steady": ("the same asked again", "share"),
    "pairs": ("pairs", ""),
    "reasons": ("", ""),
}
"""What a judge is put through, and how the report calls it."""


def _controls(quality: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the cells of a judge's row among the controls, and why it may not rank."""
    cells = []
    for key in CONTROLS:
        value = quality.get(key)
        if key == "fit":
            cells.append("yes" if value else "no")
        elif key == "people":
            found = value if isinstance(value, Mapping) else {}
            whole = Estimate(value=found.get("accuracy"), ci95=found.get("ci95"))
            cells.append(text.estimate(whole, 2))
        elif key != "reasons":
            share = isinstance(value, float)
            cells.append(
                text.number(value, 2 if share else 0) if share or isinstance(value, int) else text.NOTHING
            )
    return cells, "; ".join(text.line(str(reason)) for reason in quality.get("reasons") or ())


NAMES = {
    "ci95": "95% interval",
    "n": "pairs",
    "calibration": "calibration error",
    "length_accuracy": "accuracy of length alone",
    "quality": "on held-out rows",
    "recorded": "recorded",
}
"""What the report calls some of a judge's numbers."""


def _groups(value: Mapping[str, Any], name: str = "") -> dict[str, Mapping[str, Any]]:
    """Return nested mappings as groups of leaves, rounded; a leaf without a value is left out."""
    own: dict[str, Any] = {}
    found: dict[str, Mapping[str, Any]] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _groups(item, f"{name} {key}" if name not in ("", "quality") else key)
        elif isinstance(item, (list, tuple)):
            between = " to " if key == "ci95" else ", "
            own[key] = between.join(_short(one) for one in item) or None
        else:
            own[key] = _short(item) if isinstance(item, float) else item
    own = {NAMES.get(key, key): item for key, item in own.items() if item is not None}
    return ({NAMES.get(name or "recorded", name): own} if own else {}) | found


def _short(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.line(value)


def _samples(page: Page) -> Mapping[str, Any] | None:
    if not any(cell.samples for cell in page.results.cells):
        return None
    questions = most_disputed(page.folder, page.results, QUESTIONS)
    seeds = [answer.seed for question in questions for answer in question.answers]
    if all(question.gap is not None for question in questions):
        by = "score: the best minus the worst"
    elif all(question.split is not None for question in questions):
        by = "the comparisons that their answers win"
    else:
        by = "the words of their answers"
    judges = [one.judge for question in questions for one in question.answers[0].judgements]
    return {
        "questions": questions,
        "by": by,
        "seed": max(seeds, key=seeds.count, default=None),
        "judges": list(dict.fromkeys(judges)),
    }


def _fairness(page: Page) -> Mapping[str, Any]:
    return {"fairness": page.results.fairness, "rows": page.board.rows}


def _data(page: Page) -> Mapping[str, Any]:
    data = page.results.data
    return {"data": data, "extra": data.model_extra or {}}


def _costs(page: Page) -> Mapping[str, Any]:
    rows = page.board.rows
    return {
        "rows": rows,
        "decoded": [row for row in rows if row.label.decoding is not None],
        "spent": boards.spent_tokens,
        "total": page.results.cost,
    }


def _reproduce(page: Page) -> Mapping[str, Any]:
    environment = dict(page.results.environment)
    lock = environment.pop("installed", None)
    return {
        "recipe": _recipe(page),
        "environment": environment,
        "lock": "\n".join(map(str, lock)) if isinstance(lock, list | tuple) else "",
        "command": page.results.command,
    }


SECTIONS = (
    Section("verdict", "Verdict", _verdict),
    Section("leaderboard", "Leaderboard", _leaderboard),
    Section("pairs", "Every pair", _pairs),
    Section("frontier", "Quality against distance", _frontier),
    Section("price", "Quality against cost", _price),
    Section("tax", "Alignment tax", _tax),
    Section("parts", "Helpful, honest, harmless", _parts),
    Section("diversity", "Diversity", _diversity),
    Section("curves", "Training", _curves),
    Section("judges", "Judges", _judges),
    Section("samples", "Answers side by side", _samples),
    Section("fairness", "What was equal, and what was not", _fairness),
    Section("data", "Data", _data),
    Section("costs", "What it cost", _costs),
    Section("reproduce", "How to reproduce it", _reproduce),
)
"""The page, in order. A new section is a function, a template and a line here."""


def _bars(page: Page, column: Column) -> dict[str, Any]:
    """Return a picture for each label that has the column's metric, all on one scale, base marked."""
    rows = [(row, row.measured(column)) for row in page.board.rows]
    known = [(row, one) for row, one in rows if one.value is not None]
    ends = [end for _, one in known for end in _ends(one)]
    if not ends:
        return {}
    span = (min(ends), max(ends))
    base = next((one.value for row, one in known if row.label.label == "base"), None)
    return {
        row.name: figures.bar(
            one.value or 0.0, one.ci95, one.method and one.method.ci95, span, page.colour(row.name), base
        )
        for row, one in known
    }


def _ends(one: Measured) -> tuple[float, ...]:
    intervals: list[Interval] = [ci for ci in (one.ci95, one.method and one.method.ci95) if ci]
    return (*([one.value] if one.value is not None else []), *(end for ci in intervals for end in ci))


def _pair_places(page: Page, metric: str) -> int:
    told: list[Comparison] = [one for one in page.results.comparisons if one.metric == metric]
    return text.decimals(Estimate(value=one.difference, ci95=one.ci95) for one in told)


def _recipe(page: Page) -> str:
    import yaml

    file = artefacts.inside(page.folder, "recipe.yaml")
    if file is not None:
        return file.read_text(encoding="utf-8", errors="replace")
    return (
        yaml.safe_dump(page.results.recipe, sort_keys=False, allow_unicode=True)
        if page.results.recipe
        else ""
    )


__all__ = ["FILE", "SECTIONS", "Page", "Row", "Section", "render", "write_html"]

"""`report.html`: one static page without scripts, built section by section from a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.report import artefacts, figures, metrics, text, verdicts
from alignbench.report import leaderboard as leaderboards
from alignbench.report.judging import judges, pairs, samples
from alignbench.report.measures import diversity, leaderboard, parts, tax
from alignbench.report.page import Page, Section
from alignbench.report.scatter import frontier, price, temperatures
from alignbench.report.training import curves
from alignbench.results import Results, read

LONG = 4000
"""Characters of an answer that are shown."""


def write_html(run: Path | str) -> Path:
    """Write `report.html` into the folder of a run and return its path.

    Law: equal results and samples give equal bytes. Raises what `results.read` raises, and StorageError
    where the file cannot be written.
    """
    folder = Path(run)
    folder = folder if folder.is_dir() else folder.parent
    page = render(folder, read(run))
    file = folder / layout.REPORT
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
        # Every string that a template prints passes through here; only our own SVG is Markup.
        finalize=lambda value: (
            text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    page = Page(folder, results, leaderboards.leaderboard(results))
    environment.globals.update(
        text=text,
        title=metrics.title,
        start_of=leaderboards.start_of,
        flat=leaderboards.flat,
        prices=leaderboards.prices,
        PRICES=leaderboards.PRICES,
        colour=page.colour,
        tint=figures.colour,
        LONG=LONG,
    )
    shown = [(section, view) for section in SECTIONS if (view := section.view(page)) is not None]
    return environment.get_template("page.html").render(page=page, results=results, sections=shown)


def _verdict(page: Page) -> Mapping[str, Any]:
    best = verdicts.best(page.results).replace(" ±", "\N{NO-BREAK SPACE}±")
    return {"best": best, "rows": page.leaderboard.rows}


def _fairness(page: Page) -> Mapping[str, Any]:
    return {"fairness": page.results.fairness, "rows": page.leaderboard.rows}


def _model(page: Page) -> Mapping[str, Any]:
    return {"model": page.results.model}


def _data(page: Page) -> Mapping[str, Any]:
    data = page.results.data
    return {"data": data, "extra": data.model_extra or {}}


def _costs(page: Page) -> Mapping[str, Any]:
    rows = page.leaderboard.rows
    return {
        "rows": rows,
        "decoded": [row for row in rows if row.label.decoding is not None],
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
        "registry": page.results.registry,
    }


def _recipe(page: Page) -> str:
    import yaml

    file = artefacts.inside(page.folder, layout.RECIPE_TEXT)
    if file is not None:
        return file.read_text(encoding="utf-8", errors="replace")
    return (
        yaml.safe_dump(page.results.recipe, sort_keys=False, allow_unicode=True)
        if page.results.recipe
        else ""
    )


SECTIONS = (
    Section("verdict", "Verdict", _verdict),
    Section("leaderboard", "Leaderboard", leaderboard),
    Section("pairs", "All pairs", pairs),
    Section("temperature", "Quality against temperature", temperatures),
    Section("frontier", "Quality against distance", frontier),
    Section("price", "Quality against cost", price),
    Section("tax", "Alignment tax", tax),
    Section("parts", "Helpful, honest, harmless", parts),
    Section("diversity", "Diversity", diversity),
    Section("curves", "Training", curves),
    Section("judges", "Judges", judges),
    Section("samples", "Answers side by side", samples),
    Section("fairness", "What was equal and what was not", _fairness),
    Section("model", "Model", _model),
    Section("data", "Data", _data),
    Section("costs", "Costs", _costs),
    Section("reproduce", "How to reproduce it", _reproduce),
)
"""The page's sections in order. A new section is a function, a template and a line here."""

__all__ = ["SECTIONS", "render", "write_html"]

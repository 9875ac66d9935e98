"""The command `plan`: what will run, what is finished, and what the rest will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.runs import ForPrograms, Only, OutFolder, Overrides, RecipeFile
from alignbench.cli.shell import print_json, show_table

if TYPE_CHECKING:
    from alignbench.engine.plan import Cell
    from alignbench.recipe.schema import Loaded


def plan(
    recipe: RecipeFile,
    out: OutFolder = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nobody changes it)
    only: Only = [],  # noqa: B006
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Run it twice in small, and say what time and memory the whole will take."
        ),
    ] = False,
    as_json: ForPrograms = False,
) -> None:
    """List what will run and what is finished, in what each cell differs, and what it will take."""
    from alignbench.commands.plan import describe, finished, requested
    from alignbench.engine import resources
    from alignbench.engine.plan import cells
    from alignbench.recipe.load import load
    from alignbench.recipe.resolve import resolve

    loaded = load(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    loaded, tuning, trials = _tuning(loaded, folder)
    resolved, root = resolve(loaded.recipe), loaded.path.parent
    planned = cells(resolved, only)
    there = finished(resolved, root, folder, planned)
    left = tuple(cell for cell in planned if not there[cell])
    resources.check_disk(loaded.recipe, left, folder, root, resources.max_workers(loaded.recipe))
    rows = [
        {**describe(resolved, cell), "state": "finished" if there[cell] else "to run"} for cell in planned
    ]
    asked = requested(loaded.recipe, root)
    if not as_json:
        _show_tuning(tuning)
        _show(rows)
        _show_requests(asked)
    forecast = _forecast(loaded, left, only, trials) if estimate and left else None
    if as_json:
        print_json({"tuning": tuning, "cells": rows, "requests": asked, "estimate": forecast})
    elif forecast is not None:
        _show_forecast(forecast)
    elif not left:
        typer.echo("Nothing is left to run.")


def _tuning(loaded: Loaded, folder: Path) -> tuple[Loaded, dict[str, Any] | None, tuple[Cell, ...]]:
    """Return the recipe, with what a finished tuning has chosen; what tuning is; and its cells that are left."""
    from alignbench import layout
    from alignbench.commands.plan import finished
    from alignbench.engine import tuning
    from alignbench.engine.plan import cells
    from alignbench.recipe.resolve import resolve

    if loaded.recipe.sweep is None or not tuning.labels(loaded.recipe):
        return loaded, None, ()
    place = folder / layout.SWEEP
    trials, names = tuning.tuning(loaded)
    resolved = resolve(trials.recipe)
    there = finished(resolved, trials.path.parent, place, cells(resolved, names))
    left = tuple(cell for cell, done in there.items() if not done)
    said = {
        "trials": loaded.recipe.sweep.trials,
        "labels": list(tuning.labels(loaded.recipe)),
        "seed": loaded.recipe.sweep.seed,
        "metric": loaded.recipe.sweep.metric,
        "folder": str(place),
        "cells": len(there),
        "finished": len(there) - len(left),
    }
    done = not left and (place / layout.RESULTS).exists()
    return tuning.chosen(loaded, place) if done else loaded, said, left


def _show_tuning(said: dict[str, Any] | None) -> None:
    from alignbench.report.text import line

    if said is not None:
        typer.echo(
            f"First, in {line(said['folder'])}: {said['trials']} trials each of {', '.join(said['labels'])}, "
            f"chosen by {said['metric']} on validation prompts at seed {said['seed']}; "
            f"{said['finished']} of {said['cells']} cells are finished."
        )


def _show(rows: list[dict[str, Any]]) -> None:
    """Print the cells; what is equal for all cells of a label stands once, below them."""
    from alignbench.api.config import Budget
    from alignbench.report.text import line

    show_table(
        ("cell", "state", "method", "start", "budget"),
        (
            (
                row["cell"],
                row["state"],
                row["method"] or "",
                _start(row["start"]),
                str(Budget(**row["budget"])) if row["budget"] else "",
            )
            for row in rows
        ),
    )
    notes = {row["label"]: row["departures"] for row in rows if row["departures"]}
    for label, departures in notes.items():
        typer.echo(f"{line(label)} departs from the others: {line('; '.join(departures))}")
    if plugins := sorted({row["from"] for row in rows if row["from"]}):
        typer.echo(f"Methods from {line(', '.join(plugins))}.")


def _start(start: str | dict[str, Any] | None) -> str:
    if isinstance(start, dict):
        return ", ".join(f"{kind} {where}" for kind, where in start.items())
    return start or ""


def _show_requests(asked: list[dict[str, Any]]) -> None:
    if not asked:
        return
    typer.echo("Asked by metrics of every policy, and charged to the evaluation:")
    names = ("metrics", "prompts", "answers", "most tokens")
    rows = ((", ".join(one["metrics"]), *(_amount(one[name]) for name in names[1:])) for one in asked)
    show_table(names, rows)


def _amount(value: int | None) -> str:
    from alignbench.report.text import NOTHING

    return NOTHING if value is None else f"{value:,}"


def _forecast(
    loaded: Loaded, left: tuple[Cell, ...], only: list[str], trials: tuple[Cell, ...]
) -> dict[str, Any]:
    """Return what the cells that are left will take, and whether they fit this machine's device."""
    from dataclasses import asdict

    from alignbench.cli.doctor import device_memory
    from alignbench.cli.progress import watching
    from alignbench.commands.forecast import calibrate
    from alignbench.engine import resources, tuning

    with watching() as watch:
        found = calibrate(loaded, only, watch)
    device, memory = device_memory()
    workers = resources.max_workers(loaded.recipe)
    like = {name: label for label, names in tuning.labels(loaded.recipe).items() for name in names}
    peak = max((one.peak_memory_bytes for one in found.labels.values()), default=0.0)
    return {
        "labels": {label: asdict(one) for label, one in found.labels.items()},
        "cells": len(left),
        "seconds": found.seconds(left, workers),
        "tuning_seconds": found.seconds(trials, workers, like) if trials else 0.0,
        "evaluate_seconds": found.evaluate_seconds,
        "device": device,
        "memory_bytes": memory,
        "peak_memory_bytes": peak,
        "fits": not any(one.failed for one in found.labels.values()) and peak < memory,
        "took_seconds": found.took_seconds,
    }


def _show_forecast(said: dict[str, Any]) -> None:
    from alignbench.report.text import count, duration, line, size

    rows = [
        (label, duration(one["seconds"]), count(one["tokens"]), size(one["peak_memory_bytes"] or None))
        for label, one in said["labels"].items()
    ]
    show_table(("a cell of", "time", "tokens", "peak memory"), rows)
    for label, one in said["labels"].items():
        if one["failed"]:
            typer.echo(f"{line(label)} does NOT run, not even in small: {line(one['failed'])}")
    fits = "fits" if said["fits"] else "does NOT fit"
    tuning = f", after {duration(said['tuning_seconds'])} of tuning" if said["tuning_seconds"] else ""
    cells = "1 cell is" if said["cells"] == 1 else f"{said['cells']} cells are"
    typer.echo(
        f"{cells} left: about {duration(said['seconds'])} on a machine with nothing else to do, evaluation "
        f"included{tuning}. Peak memory {size(said['peak_memory_bytes'])}: it {fits} {said['device']}."
    )
    typer.echo("Drawn out from two small runs; memory has a fifth added for rows longer than theirs.")

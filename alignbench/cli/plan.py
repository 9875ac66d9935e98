"""The command `plan`: what will run, what is finished, and what the rest will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.runs import ChosenLauncher, ForPrograms, Only, OutFolder, Overrides, RecipeFile
from alignbench.cli.shell import print_json, show_table

if TYPE_CHECKING:
    from alignbench.commands.forecast import Forecast
    from alignbench.engine.cells import PlannedCell
    from alignbench.recipe.plan import Plan
    from alignbench.recipe.schema import Loaded, Recipe
    from alignbench.recipe.schema import Model as Base
    from alignbench.results import Model


def plan(
    recipe: RecipeFile,
    out: OutFolder = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nobody changes it)
    only: Only = [],  # noqa: B006
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Predict time and memory from parts of every label, in about a minute or 3 % of a long run.",
        ),
    ] = False,
    launcher: ChosenLauncher = "local",
    as_json: ForPrograms = False,
) -> None:
    """List what will run and what is finished, with departures, and predict time and memory."""
    from alignbench.commands.plan import describe, finished, requested
    from alignbench.engine import environment, resources
    from alignbench.engine.cells import cells_of
    from alignbench.launchers.choose import choose, split
    from alignbench.recipe.load import load
    from alignbench.recipe.resolve import resolve

    of_recipe, of_launcher = split(overrides)
    chosen = choose(launcher, of_launcher)
    loaded = load(recipe, of_recipe)
    folder = out or Path("runs") / recipe.stem
    loaded, tuning, trials = _tuning(loaded, folder)
    resolved, root = resolve(loaded.recipe), loaded.path.parent
    planned = cells_of(resolved, only)
    there = finished(resolved, root, folder, planned)
    left = tuple(cell for cell in planned if not there[cell])
    workers = resources.max_workers(resolved, chosen)
    resources.check_disk(resolved, left, folder, root, workers)
    rows = [
        {**describe(resolved, cell), "state": "finished" if there[cell] else "to run"} for cell in planned
    ]
    asked = requested(loaded.recipe, root)
    power = _power(loaded.recipe)
    if not as_json:
        _show_tuning(tuning)
        _show(rows)
        _show_requests(asked)
        _show_power(power)
    found = _forecast(loaded, resolved, only) if estimate and left else None
    model, unknown = _weights(loaded.recipe.model, root) if found is None else (found.model, "")
    compute = environment.compute(folder, loaded.recipe.model, root)
    forecast = None if found is None else _estimate(loaded, left, trials, found, workers)
    if as_json:
        record = {"tuning": tuning, "cells": rows, "requests": asked, "detectable": power}
        print_json(
            {**record, "model": model.model_dump(mode="json"), "compute": compute, "estimate": forecast}
        )
        return
    _show_model(model)
    if unknown:
        typer.echo(f"The shares of the weights are not known: {unknown}")
    typer.echo(f"The base computes in {compute}.{_room(resolved)}")
    if forecast is not None:
        _show_forecast(forecast)
    elif not left:
        typer.echo("Nothing is left to run.")


def _tuning(loaded: Loaded, folder: Path) -> tuple[Loaded, dict[str, Any] | None, tuple[PlannedCell, ...]]:
    """Return the recipe with the values a finished tuning chose, a description of tuning, and its open cells."""
    from alignbench import layout
    from alignbench.commands.plan import finished
    from alignbench.engine import tuning
    from alignbench.engine.cells import cells_of
    from alignbench.recipe.resolve import resolve

    if loaded.recipe.sweep is None or not tuning.labels(loaded.recipe):
        return loaded, None, ()
    place = folder / layout.SWEEP
    trials, names = tuning.tuning(loaded)
    resolved = resolve(trials.recipe)
    there = finished(resolved, trials.path.parent, place, cells_of(resolved, names))
    left = tuple(cell for cell, done in there.items() if not done)
    summary = {
        "trials": loaded.recipe.sweep.trials,
        "labels": list(tuning.labels(loaded.recipe)),
        "seed": loaded.recipe.sweep.seed,
        "metric": loaded.recipe.sweep.metric,
        "folder": str(place),
        "cells": len(there),
        "finished": len(there) - len(left),
    }
    done = not left and (place / layout.RESULTS).exists()
    return tuning.chosen(loaded, place) if done else loaded, summary, left


def _show_tuning(summary: dict[str, Any] | None) -> None:
    from alignbench.report.text import line

    if summary is not None:
        typer.echo(
            f"First, tuning in {line(summary['folder'])}: {summary['trials']} trials for each of "
            f"{', '.join(summary['labels'])}, chosen by {summary['metric']} on validation prompts at seed "
            f"{summary['seed']}; "
            f"{summary['finished']} of {summary['cells']} cells are finished."
        )


def _show(rows: list[dict[str, Any]]) -> None:
    """Print the cells, and below them once what all cells of a label have in common."""
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
        typer.echo(f"{line(label)} has departures: {line('; '.join(departures))}")
    if plugins := sorted({row["from"] for row in rows if row["from"]}):
        typer.echo(f"Methods from {line(', '.join(plugins))}.")


def _start(start: str | dict[str, Any] | None) -> str:
    if isinstance(start, dict):
        return ", ".join(f"{kind} {where}" for kind, where in start.items())
    return start or ""


def _show_requests(asked: list[dict[str, Any]]) -> None:
    if not asked:
        return
    typer.echo("Additional answers that metrics request from every policy, counted as evaluation cost:")
    names = ("metrics", "prompts", "answers", "max tokens")
    rows = ((", ".join(one["metrics"]), *(_amount(one[name]) for name in names[1:])) for one in asked)
    show_table(names, rows)


def _power(recipe: Recipe) -> dict[str, Any]:
    """Return the differences of a score from 0 to 1 that the recipe's seeds and prompts find in 80 % of runs.

    One kind of verdict is all that a report gives: on the method from three seeds on, else on these policies.
    """
    from dataclasses import asdict

    from alignbench import stats

    labels = 1 + len(recipe.methods)
    sizes = {"seeds": len(recipe.seeds), "prompts": recipe.evaluation.prompts, "labels": labels}
    estimand: stats.Estimand = "method" if len(recipe.seeds) >= stats.MIN_SEEDS else "policies"
    return {
        **sizes,
        "estimand": estimand,
        "difference": stats.detectable(stats.PLANNING, estimand, **sizes),
        "planning": asdict(stats.PLANNING),
    }


def _show_power(power: dict[str, Any]) -> None:
    from alignbench.stats import MIN_SEEDS

    of = {"method": "methods", "policies": "trained policies"}[power["estimand"]]
    seeds = f"{power['seeds']} seed{'s' if power['seeds'] > 1 else ''}"
    planning = power["planning"]
    typer.echo(
        f"{seeds}, {power['prompts']} prompts and {power['labels']} labels find a difference of "
        f"{power['difference']:.2f} between two {of} in 80 % of runs, in a score from 0 to 1 whose standard "
        f"deviation is {planning['seed']:g} between seeds and {planning['rest']:g} between answers."
    )
    if power["estimand"] == "policies":
        typer.echo(f"A verdict on the methods needs {MIN_SEEDS} seeds or more.")


def _amount(value: int | None) -> str:
    from alignbench.report.text import NOTHING

    return NOTHING if value is None else f"{value:,}"


def _weights(model: Base, root: Path) -> tuple[Model, str]:
    """Return the shares of a base's weights, and why they are not known where they are not."""
    from alignbench import results
    from alignbench.commands.plan import weights
    from alignbench.models.weights.child import UnansweredError

    try:
        return weights(model, root), ""
    except UnansweredError as error:
        return results.Model(), str(error)


def _show_model(model: Model) -> None:
    from alignbench.report.text import weights

    if model.weights:
        typer.echo(weights(model))


def _room(plan: Plan) -> str:
    """Say by what `micro_batch: auto` chooses; a device is not asked here."""
    from alignbench.engine import resources
    from alignbench.launchers import machine
    from alignbench.models.forward.memory import CACHE, HELD, SHARE, for_activations, limit
    from alignbench.report.text import size

    if plan.training.micro_batch != "auto":
        return ""
    if machine.has_cuda():
        room = f"{SHARE['cuda']:.0%} of the device's memory without the weights"
        held = f"{HELD:.0%} of the device's memory"
    else:
        threads = resources.threads(plan)
        room = size(for_activations("cpu", threads))
        held = size(limit("cpu", CACHE, threads=threads))
    return (
        f" A forward pass takes as many tokens as fit, with what their backward pass needs, into {room}; "
        f"a batch of answers, with its keys and values, into {held}."
    )


def _forecast(loaded: Loaded, plan: Plan, only: list[str]) -> Forecast:
    """Measure parts of the recipe."""
    from alignbench.cli.progress import watching
    from alignbench.commands.forecast import calibrate

    with watching() as watch:
        return calibrate(loaded, plan, only, watch)


def _estimate(
    loaded: Loaded,
    left: tuple[PlannedCell, ...],
    trials: tuple[PlannedCell, ...],
    found: Forecast,
    workers: int,
) -> dict[str, Any]:
    """Return the predicted cost of the open cells, and whether they fit this machine's device."""
    from dataclasses import asdict

    from alignbench.cli.doctor import device_memory
    from alignbench.engine import tuning

    device, memory, shared = device_memory()
    like = {name: label for label, names in tuning.labels(loaded.recipe).items() for name in names}
    peaks = sorted((one.peak_memory_bytes for one in found.labels.values()), reverse=True)
    # On a CPU the processes of the cells that run side by side share the machine.
    most = sum(peaks[: workers if shared else 1])
    measured = all(one.seconds for one in found.labels.values())
    return {
        "labels": {label: asdict(one) for label, one in found.labels.items()},
        "cells": len(left),
        "seconds": found.seconds(left, workers),
        "tuning_seconds": found.seconds(trials, workers, like) if trials else 0.0,
        "evaluate_seconds": found.evaluate_seconds,
        "evaluation_failed": found.failed,
        "device": device,
        "memory_bytes": memory,
        "peak_memory_bytes": max(peaks, default=0.0),
        "together_bytes": most,
        "fits": False if most >= memory else True if measured else None,
        "took_seconds": found.took_seconds,
    }


def _show_forecast(estimate: dict[str, Any]) -> None:
    from alignbench.report.text import count, duration, line, size

    rows = [
        (label, duration(one["seconds"]), count(one["tokens"]), size(one["peak_memory_bytes"] or None))
        for label, one in estimate["labels"].items()
    ]
    show_table(("a cell of", "time", "tokens", "peak memory"), rows)
    for label, one in estimate["labels"].items():
        if one["failed"]:
            what = (
                "was measured in small parts only"
                if one["seconds"]
                else "could not be measured and is left out"
            )
            typer.echo(f"{line(label)} {what}: {line(one['failed'])}")
    if estimate["evaluation_failed"]:
        typer.echo(f"The evaluation could not be measured whole: {line(estimate['evaluation_failed'])}")
    fits = {True: "fits", False: "does NOT fit", None: "fits as far as it was measured"}[estimate["fits"]]
    beside = (
        f", {size(estimate['together_bytes'])} with the cells that run side by side"
        if estimate["together_bytes"] > estimate["peak_memory_bytes"]
        else ""
    )
    tuning = f", after {duration(estimate['tuning_seconds'])} of tuning" if estimate["tuning_seconds"] else ""
    cells = "1 cell is" if estimate["cells"] == 1 else f"{estimate['cells']} cells are"
    typer.echo(
        f"{cells} left: about {duration(estimate['seconds'])} on an otherwise idle machine, evaluation "
        f"included{tuning}. Peak memory {size(estimate['peak_memory_bytes'])}{beside}: it {fits} {estimate['device']}."
    )
    typer.echo(
        "Extrapolated from parts of each label; memory includes a margin of 20 to 40 % for longer rows."
    )

"""The commands about recipes and runs: run, check, plan, compare, report."""

from __future__ import annotations

import signal
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alignbench.cli.shell import print_json, show_table
from alignbench.errors import Exit, RecipeError

if TYPE_CHECKING:
    from alignbench.engine.plan import Cell
    from alignbench.recipe import Loaded, Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML file of the comparison.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="a.b=c", help="Set one value of the recipe; may be repeated.")
]
ForPrograms = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]


def run(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the run.", show_default="runs/ and the recipe's name")
    ] = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nobody changes it)
    only: Annotated[
        list[str],
        typer.Option(metavar="LABEL", help="Run this label and what it starts from; may be repeated."),
    ] = [],  # noqa: B006
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Cells that run side by side.")] = "auto",
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run beside one of another recipe or environment.")
    ] = False,
    allow_env_change: Annotated[
        bool, typer.Option("--allow-env-change", help="Go on with what other libraries or plugins made.")
    ] = False,
    heartbeat: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Stop a cell silent for so long; 0 waits for ever."),
    ] = 1800,
    every: Annotated[
        float,
        typer.Option(
            "--checkpoint-every", metavar="SECONDS", min=0, help="Time between two checkpoints of a training."
        ),
    ] = 60,
    track: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Also send each cell's numbers to tensorboard, mlflow, wandb or trackio; may be repeated.",
        ),
    ] = [],  # noqa: B006
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Tell what happens as JSON, an object a line, for a program.")
    ] = False,
) -> None:
    """Run a comparison, or go on with one that was interrupted."""
    from alignbench import engine, plugins, report, results
    from alignbench.cli.progress import as_line, telling, watching
    from alignbench.engine.tracking import check_trackers
    from alignbench.reading import load

    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _stop)
    lanes = _jobs(jobs)
    loaded = load(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    if fork:
        folder = engine.world.fork(folder, loaded)
    check_trackers(track)
    try:
        with nullcontext(telling(typer.echo)) if as_json else watching(quiet=quiet) as watch:
            code = engine.run(
                loaded,
                out=folder,
                only=only,
                jobs=lanes,
                heartbeat=heartbeat,
                every=every,
                allow_env_change=allow_env_change,
                track=track,
                watch=watch,
                observers=plugins.observers(),
            )
    except Stopped as stopped:
        typer.echo(f"stopped; nothing is lost, go on with: {engine.command()}", err=True)
        raise typer.Exit(stopped.code) from None
    found = results.read(folder)
    page = report.write_html(folder)
    if as_json:
        told = {"results": str(folder / results.FILE), "report": str(page), "exit_code": int(code)}
        typer.echo(as_line({"event": "finished", **told}))
    elif not quiet:
        report.show(found)
        typer.echo(f"report: {page}")
    raise typer.Exit(code)


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop."""

    code = Exit.INTERRUPTED


def _stop(sign: int, _frame: object) -> None:
    """Stop at once what the parent does; what its children do is told to stop by the executor."""
    stopped = Stopped()
    if sign != signal.SIGINT:
        stopped.code = Exit.TERMINATED
    with suppress(OSError):  # the terminal may be gone
        typer.echo("stopping: each cell finishes its step and keeps it; once more stops now", err=True)
    raise stopped


def check(recipe: RecipeFile, overrides: Overrides = [], as_json: ForPrograms = False) -> None:  # noqa: B006
    """Check a recipe, and say all that is wrong with it at once."""
    from alignbench.engine.plan import cells
    from alignbench.reading import load

    checked = load(recipe, overrides).recipe
    if as_json:
        print_json(checked.model_dump(mode="json"))
        return
    count = len(cells(checked))
    labels = ", ".join(["base", *checked.methods])
    typer.echo(f"{recipe} is good: {count} cells ({labels}; {_seeds(checked.seeds)})")


def plan(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the run.", show_default="runs/ and the recipe's name")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Run it twice in small, and say what time and memory the whole will take."
        ),
    ] = False,
    as_json: ForPrograms = False,
) -> None:
    """List what will run and what is finished, in what each cell differs, and what it will take."""
    from alignbench import engine
    from alignbench.engine.plan import cells, requested
    from alignbench.reading import load

    loaded = load(recipe, overrides)
    planned = cells(loaded.recipe)
    folder = out or Path("runs") / recipe.stem
    there = engine.standing(loaded, folder, planned)
    left = tuple(cell for cell in planned if not there[cell])
    engine.room.check(loaded.recipe, left, folder, loaded.path.parent, engine.lanes(loaded.recipe))
    rows = [
        {**_planned(loaded.recipe, cell), "state": "finished" if there[cell] else "to run"}
        for cell in planned
    ]
    forecast = _forecast(loaded, left) if estimate else None
    asked = requested(loaded.recipe, loaded.path.parent)
    if as_json:
        more = {"estimate": forecast} if forecast is not None else {}
        print_json({"cells": rows, "requests": asked, **more} if asked or more else rows)
        return
    columns = ("cell", "state", "method", "from", "start", "budget", "departures")
    show_table(columns, ([_said(row[column]) for column in columns] for row in rows))
    if asked:
        typer.echo("Asked by metrics of every policy, and charged to the evaluation:")
        names = ("metrics", "prompts", "answers", "most tokens")
        show_table(
            names, ((", ".join(one["metrics"]), *(str(one[name]) for name in names[1:])) for one in asked)
        )
    if forecast is not None:
        _show_forecast(forecast)


def _forecast(loaded: Loaded, left: tuple[Cell, ...]) -> dict[str, Any]:
    """Return what the cells that are left will take, and whether they fit this machine's device."""
    from dataclasses import asdict

    from alignbench import engine
    from alignbench.cli.doctor import device_memory
    from alignbench.cli.progress import watching
    from alignbench.engine.calibration import calibrate

    with watching() as watch:
        found = calibrate(loaded, watch)
    device, memory = device_memory()
    peak = max((one.peak_memory_bytes for one in found.labels.values()), default=0.0)
    return {
        "labels": {label: asdict(one) for label, one in found.labels.items()},
        "cells": len(left),
        "seconds": found.seconds(left, engine.lanes(loaded.recipe)),
        "evaluate_seconds": found.evaluate_seconds,
        "device": device,
        "memory_bytes": memory,
        "peak_memory_bytes": peak,
        "fits": not any(one.failed for one in found.labels.values()) and peak < memory,
        "took_seconds": found.took_seconds,
    }


def _show_forecast(said: dict[str, Any]) -> None:
    from alignbench.report.text import count, duration, size

    rows = [
        (
            label,
            duration(one["seconds"]),
            count(one["tokens"]),
            size(one["peak_memory_bytes"] or None),
            one["failed"],
        )
        for label, one in said["labels"].items()
    ]
    show_table(("a cell of", "time", "tokens", "peak memory", ""), rows)
    fits = "fits" if said["fits"] else "does NOT fit"
    typer.echo(
        f"{said['cells']} cells are left: about {duration(said['seconds'])}, evaluation included. "
        f"Peak memory {size(said['peak_memory_bytes'])}: it {fits} {said['device']}."
    )
    typer.echo("Drawn out from two small runs; memory has a fifth added for rows longer than theirs.")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    format: Annotated[
        Literal["table", "markdown", "csv", "json"], typer.Option(help="How the comparison is written.")
    ] = "table",
    as_json: ForPrograms = False,
) -> None:
    """Put stored runs side by side."""
    from alignbench import report

    report.compare(runs, "json" if as_json else format)


def report(run: RunFolder, as_json: ForPrograms = False) -> None:
    """Show a stored run again and write its report.html anew."""
    from alignbench import report, results

    found = results.read(run)
    page = report.write_html(run)
    if as_json:
        print_json({"report": str(page)})
        return
    report.show(found)
    typer.echo(f"report: {page}")


def _jobs(said: str) -> int | Literal["auto"]:
    if said == "auto":
        return "auto"
    if said.isdecimal() and int(said) > 0:
        return int(said)
    raise RecipeError(f"--jobs {said}: expected 'auto' or a whole number, 1 at least")


def _planned(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    from alignbench import plugins
    from alignbench.engine.plan import departures
    from alignbench.recipe import own_budget

    row: dict[str, Any] = {"cell": str(cell), "label": cell.label, "seed": cell.seed}
    block = recipe.methods.get(cell.label)
    if block is None:
        return {**row, "method": None, "from": None, "start": None, "budget": None, "departures": []}
    start = block.start if isinstance(block.start, str) else block.start.model_dump()
    return {
        **row,
        "method": block.method,
        "from": str(plugins.find("methods", block.method)),
        "start": start,
        "budget": own_budget(recipe, cell.label).model_dump(exclude_none=True),
        "departures": [str(departure) for departure in departures(recipe, cell.label)],
    }


def _said(value: Any) -> str:
    if isinstance(value, dict):
        said = ((key, f"{item:g}" if isinstance(item, float) else item) for key, item in value.items())
        return ", ".join(f"{key} {item}" for key, item in said if item != "own")
    return "; ".join(value) if isinstance(value, list) else value or ""


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"

"""The commands about recipes and runs: run, check, compare, report."""

from __future__ import annotations

import signal
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignbench.cli.shell import print_json
from alignbench.errors import Exit, RecipeError

if TYPE_CHECKING:
    from alignbench.data.pool import Pool

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML file of the comparison.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
OutFolder = Annotated[
    Path | None, typer.Option(help="The folder of the run.", show_default="runs/ and the recipe's name")
]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="a.b=c", help="Set one value of the recipe; may be repeated.")
]
Only = Annotated[
    list[str], typer.Option(metavar="LABEL", help="This label and what it starts from; may be repeated.")
]
ForPrograms = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]


def run(
    recipe: RecipeFile,
    out: OutFolder = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nobody changes it)
    only: Only = [],  # noqa: B006
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
    from alignbench import hooks, layout, report, results
    from alignbench.cli.progress import as_line, telling, watching
    from alignbench.engine import environment
    from alignbench.engine import run as engine
    from alignbench.recipe.load import load
    from alignbench.worker.trackers import check_trackers

    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _stop)
    workers = _jobs(jobs)
    loaded = load(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    if fork:
        folder = environment.fork(folder, loaded)
    check_trackers(track)
    try:
        with nullcontext(telling(typer.echo)) if as_json else watching(quiet=quiet) as watch:
            code = engine.run(
                loaded,
                out=folder,
                only=only,
                max_workers=workers,
                heartbeat=heartbeat,
                checkpoint_every=every,
                allow_env_change=allow_env_change,
                track=track,
                watch=watch,
                observers=hooks.installed(),
            )
    except Stopped as stopped:
        typer.echo(f"stopped; nothing is lost, go on with: {engine.command()}", err=True)
        raise typer.Exit(stopped.code) from None
    found = results.read(folder)
    page = report.write_html(folder)
    if as_json:
        told = {"results": str(folder / layout.RESULTS), "report": str(page), "exit_code": int(code)}
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


def check(
    recipe: RecipeFile,
    overrides: Overrides = [],  # noqa: B006
    rows: Annotated[bool, typer.Option("--data", help="Also read every row of its data.")] = False,
    as_json: ForPrograms = False,
) -> None:
    """Check a recipe, and say all that is wrong with it at once."""
    from alignbench.engine.plan import cells
    from alignbench.recipe.load import load
    from alignbench.recipe.resolve import resolve

    loaded = load(recipe, overrides)
    checked, read = loaded.recipe, ""
    if rows:
        from alignbench.data.survey import survey

        read = _read(survey(checked, loaded.path.parent))
    if as_json:
        print_json(checked.model_dump(mode="json"))
        return
    count = len(cells(resolve(checked)))
    labels = ", ".join(["base", *checked.methods])
    typer.echo(f"{recipe} is good: {count} cells ({labels}; {_seeds(checked.seeds)}){read}")


def _read(pool: Pool) -> str:
    """Say how many rows were read, and which of them are of no use, or odd."""
    said = f"\n{pool.read:,} {pool.view.__name__} rows were read"
    if pool.dropped:
        told = (f"{reason} ({count:,})" for reason, count in pool.dropped.most_common())
        said += f"; of no use: {', '.join(told)}"
    for count, what in ((pool.duplicates, "said twice"), (pool.conflicts, "labelled in two ways")):
        said += f"; {what}: {count:,}" if count else ""
    return said


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


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"

"""The commands about recipes and runs: run, check, compare, report."""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from functools import partial
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
    list[str],
    typer.Option(metavar="LABEL", help="Only this label and the labels it starts from; may be repeated."),
]
ChosenLauncher = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where cells run: local, or a plugin's; --set launcher.FIELD=VALUE sets its fields.",
    ),
]
ForPrograms = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run(
    recipe: RecipeFile,
    out: OutFolder = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nobody changes it)
    only: Only = [],  # noqa: B006
    jobs: Annotated[
        str,
        typer.Option(
            metavar="N|auto", help="Cells that run in parallel, on each CUDA device if there are several."
        ),
    ] = "auto",
    launcher: ChosenLauncher = "local",
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run in a new folder if recipe or environment changed.")
    ] = False,
    allow_env_change: Annotated[
        bool,
        typer.Option("--allow-env-change", help="Continue a run of other library or plugin versions."),
    ] = False,
    heartbeat: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="Stop a cell without a heartbeat for this long; 0 never does."
        ),
    ] = 1800,
    every: Annotated[
        float,
        typer.Option(
            "--checkpoint-every", metavar="SECONDS", min=0, help="Time between two training checkpoints."
        ),
    ] = 60,
    track: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Also log to tensorboard, mlflow, wandb or trackio; may be repeated.",
        ),
    ] = [],  # noqa: B006
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress as JSON lines.")] = False,
) -> None:
    """Run a comparison, or continue one that was interrupted."""
    from alignbench import hooks, layout, report, results
    from alignbench.cli.progress import as_line, printing_json, watching
    from alignbench.engine import environment
    from alignbench.engine import run as engine
    from alignbench.launchers.choose import choose, split
    from alignbench.recipe.load import load
    from alignbench.recipe.resolve import resolve
    from alignbench.worker.run.trackers import check_trackers

    stop = Stop()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, stop)
    of_recipe, of_launcher = split(overrides)
    chosen = choose(launcher, of_launcher, _jobs(jobs))
    loaded = load(recipe, of_recipe)
    folder, resolved = out or Path("runs") / recipe.stem, None
    if fork:
        resolved = resolve(loaded.recipe)
        folder = environment.fork(folder, resolved, loaded.path.parent)
    check_trackers(track)
    try:
        json_lines = printing_json(partial(typer.echo, file=sys.stdout))
        ours = nullcontext(json_lines) if as_json else watching(quiet=quiet)
        with redirect_stdout(sys.stderr), ours as watch:  # what libraries print is not output of this command
            code = engine.run(
                loaded,
                out=folder,
                resolved=resolved,
                only=only,
                launcher=chosen,
                heartbeat=heartbeat,
                checkpoint_every=every,
                allow_env_change=allow_env_change,
                track=track,
                watch=watch,
                observers=hooks.installed(),
            )
    except KeyboardInterrupt:  # of a library, too: Ray's waiting replaces the one of the handler
        typer.echo(f"stopped; nothing is lost, continue with: {engine.command()}", err=True)
        raise typer.Exit(stop.code) from None
    found = results.read(folder)
    page = report.write_html(folder)
    if as_json:
        facts = {"results": str(folder / layout.RESULTS), "report": str(page), "exit_code": int(code)}
        typer.echo(as_line({"event": "finished", **facts}))
    elif not quiet:
        report.show(found)
        typer.echo(f"report: {page}")
    raise typer.Exit(code)


class Stop:
    """Handles the signals that end a run: stops the parent process at once; the launcher stops its tasks."""

    def __init__(self) -> None:
        self.code = Exit.INTERRUPTED

    def __call__(self, sign: int, _frame: object) -> None:
        self.code = Exit.INTERRUPTED if sign == signal.SIGINT else Exit.TERMINATED
        with suppress(OSError):  # the terminal may be gone
            typer.echo(
                "stopping: each cell finishes its step and saves it; a second signal stops now", err=True
            )
        raise KeyboardInterrupt


def check(
    recipe: RecipeFile,
    overrides: Overrides = [],  # noqa: B006
    rows: Annotated[
        bool, typer.Option("--data", help="Also read every row with a local model's tokenizer.")
    ] = False,
    launcher: ChosenLauncher = "local",
    as_json: ForPrograms = False,
) -> None:
    """Check a recipe and report all problems at once."""
    from alignbench.engine.cells import cells_of
    from alignbench.launchers.choose import choose, split
    from alignbench.models.weights import files
    from alignbench.recipe.load import load
    from alignbench.recipe.resolve import resolve

    of_recipe, of_launcher = split(overrides)
    choose(launcher, of_launcher)
    loaded = load(recipe, of_recipe)
    checked, read, root = loaded.recipe, "", loaded.path.parent
    plan = resolve(checked)
    unchecked = files.check(plan, root)
    if rows:
        from alignbench.data.checks import learnt_from
        from alignbench.data.survey import check_tokenizer, survey
        from alignbench.data.torchless import without_torch

        pool = survey(checked, root)
        learnt_from(lambda: pool.rows["train"], plan, plan.labels)
        if checked.model.id not in unchecked.away:
            with without_torch():
                check_tokenizer(checked, root, pool)
        read = _read(pool)
    if as_json:
        print_json(checked.model_dump(mode="json"))
        return
    count = len(cells_of(plan))
    labels = ", ".join(["base", *checked.methods])
    model = files.described(checked.model, root)
    typer.echo(f"{recipe} is good: {count} cells ({labels}; {_seeds(checked.seeds)}){model}{read}")
    if unchecked.away:
        typer.echo(f"not checked, since a run would download it first: {', '.join(unchecked.away)}")
    for what in unchecked.unknown:
        typer.echo(f"not checked: {what}")


def _read(pool: Pool) -> str:
    """Return a summary of the rows: read, unusable, duplicated, contradictory."""
    summary = f"\n{pool.read:,} {pool.view.__name__} rows were read"
    if pool.dropped:
        reasons = (f"{reason} ({count:,})" for reason, count in pool.dropped.most_common())
        summary += f"; unusable: {', '.join(reasons)}"
    for count, what in ((pool.duplicates, "duplicates"), (pool.conflicts, "contradictory labels")):
        summary += f"; {what}: {count:,}" if count else ""
    return summary


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    format: Annotated[
        Literal["table", "markdown", "csv", "json"], typer.Option(help="Output format.")
    ] = "table",
    as_json: ForPrograms = False,
) -> None:
    """Compare finished runs side by side."""
    from alignbench import report

    report.compare(runs, "json" if as_json else format)


def report(run: RunFolder, as_json: ForPrograms = False) -> None:
    """Show a finished run and write its report.html again."""
    from alignbench import report, results

    found = results.read(run)
    page = report.write_html(run)
    if as_json:
        print_json({"report": str(page)})
        return
    report.show(found)
    typer.echo(f"report: {page}")


def _jobs(value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise RecipeError(f"--jobs {value}: expected 'auto' or a whole number of at least 1")


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"

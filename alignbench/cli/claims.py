"""The command `claims`: tests claims of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.errors import AlignbenchError, Exit, RecipeError, StorageError, first_line

if TYPE_CHECKING:
    from alignbench.commands.claims.looks import State, Wanted

QUICK = ("evaluation.prompts=100",)
"""Recipe overrides of `--quick`."""


def claims(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder with registry.yaml and its recipes.")
    ] = Path("recipes/claims"),
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the runs. Default: runs/claims, or runs/claims-FOLDER."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; its figure is written next to it. Default: docs/claims.md, or "
            "docs/claims-FOLDER.md; with --quick, quick.md in the folder of the runs."
        ),
    ] = None,
    only: Annotated[
        list[str], typer.Option(metavar="CLAIM", help="Run only what this claim needs; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it, nobody changes it)
    status: Annotated[
        bool,
        typer.Option(
            "--status",
            help="Run no cell; show the state of each claim and what runs next, and write the page.",
        ),
    ] = False,
    replicate: Annotated[
        bool, typer.Option("--replicate", help="Run the decided parts again, on seeds that decided nothing.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and 100 prompts: numbers of most parts, but no verdict.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Cells that run in parallel, on each CUDA device if there are several."
        ),
    ] = None,
) -> None:
    """Test claims of the literature on the sandbox, with interim analyses; finished cells are not repeated."""
    from alignbench import report, sandbox, store
    from alignbench.cli.progress import watching
    from alignbench.commands.claims.looks import Looks, later
    from alignbench.commands.claims.registry import load, register
    from alignbench.commands.claims.verdicts import summary
    from alignbench.engine import run as engine
    from alignbench.launchers.choose import choose
    from alignbench.report import claims as pages

    registry = load(folder)
    if unknown := set(only) - set(registry.claims):
        raise RecipeError(
            f"unknown claim: {', '.join(sorted(unknown))}", f"choose from {', '.join(registry.claims)}"
        )
    if quick and replicate:
        raise RecipeError("--quick has no replication", "leave out one of --quick and --replicate")
    out = out or Path("runs") / registry.name
    # Runs of a changed sandbox get a new folder next to the old one.
    runs = out / f"{sandbox.FINGERPRINT[:12]}{'-quick' if quick else ''}"
    page = page or (out / "quick.md" if quick else Path("docs") / f"{registry.name}.md")
    looks = Looks(registry, runs, QUICK if quick else ())
    if not quick:
        looks.records  # noqa: B018  (refuses a registry that changed)
        if runs.exists():
            register(registry, runs)
    failed: dict[Path, str] = {}

    def write() -> None:
        state = None if quick else looks.state()
        known = looks.quick()[1] if state is None else state.found
        again = {} if quick else looks.replication(known)[0]
        text, figure = pages.page(
            registry,
            known,
            again,
            state=state,
            records=None if quick else looks.records,
            sandbox=sandbox.FINGERPRINT,
            figure=page.with_suffix(".svg").name,
            quick=quick,
            later=[] if quick else later(registry),
        )
        store.write_text(page.with_suffix(".svg"), figure)
        store.write_text(page, text)

    def left() -> tuple[Wanted, ...]:
        """The runs to do now: of one look, so that the next is asked only what this one leaves open."""
        if quick:
            wanted = looks.quick()[0]
        elif replicate:
            wanted = looks.replication(looks.state().found)[1]
        else:
            wanted = looks.state().next
        chosen = (one for one in wanted if not only or set(only) & set(one.claims))
        return tuple(one for one in chosen if one.folder not in failed)

    def show_status() -> None:
        known = looks.quick()[1] if quick else looks.state().found
        for name, claim in registry.claims.items():
            typer.echo(f"{name}: {summary(claim, known.get(name, []))}")
        for one in left():
            typer.echo(f"next: {one.folder}, {len(one.missing)} cells to run, for {', '.join(one.claims)}")
        typer.echo(f"cells to run in this look: {sum(len(one.missing) for one in left())}")
        if only and not quick and not replicate and not left() and (waiting := _open(looks.state(), only)):
            others = ", ".join(dict.fromkeys(name for one in looks.state().next for name in one.claims))
            typer.echo(f"{', '.join(waiting)} goes on once this look is over, for which {others} must run")

    show_status()
    while not status and (wanted := left()):
        if not quick:
            register(registry, runs)
            looks.records.begin()
        one = wanted[0]
        typer.echo(f"{one.folder}: {len(one.missing)} cells to run, for {', '.join(one.claims)}")
        try:
            one.prepare()
            with watching() as watch:
                engine.run(
                    one.loaded,
                    out=one.folder,
                    only=one.labels,
                    launcher=choose(jobs=jobs or "auto"),
                    allow_env_change=True,
                    registry="" if quick else registry.digest,
                    watch=watch,
                )
            report.write_html(one.folder)
            if not one.finished:
                failed[one.folder] = "a cell failed"
        except StorageError:
            raise  # no further run could be written either
        except AlignbenchError as error:
            failed[one.folder] = first_line(error)
        if one.folder in failed:
            typer.echo(f"{one.folder}: {failed[one.folder]}")
        write()
        if not left():
            show_status()
    write()
    typer.echo(f"page: {page}")
    raise typer.Exit(Exit.FAILED if failed else Exit.DONE)


def _open(state: State, names: list[str]) -> list[str]:
    """Return which of these claims have parts that no look has decided."""
    from alignbench.commands.claims.verdicts import DECIDED

    return [name for name in names if any(one.word not in DECIDED for one in state.found.get(name, []))]

"""The command that puts the literature's claims to the test: claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError, Exit, RecipeError, StorageError

QUICK = ("seeds=[0]", "evaluation.prompts=100")
"""What `--quick` overrides."""


def claims(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of claims.yaml and its recipes.")
    ] = Path("recipes/claims"),
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs/claims"),
    page: Annotated[Path, typer.Option(help="The page that is written.")] = Path("docs/claims.md"),
    only: Annotated[
        list[str], typer.Option(metavar="CLAIM", help="Run this claim alone; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it, nobody changes it)
    quick: Annotated[
        bool, typer.Option(help="One seed and half the prompts: figures, but no verdict.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Cells that run side by side.")] = None,
) -> None:
    """Put claims of the literature to the test on the sandbox; what is finished is not run again."""
    from alignbench import engine, report, results, sandbox, store
    from alignbench.cli.progress import watching
    from alignbench.engine.claims import Found, Verdict, judge, load, runs_of
    from alignbench.engine.claims import page as written
    from alignbench.engine.world import fork
    from alignbench.reading import load as load_recipe

    known = load(folder)
    if unknown := set(only) - set(known):
        raise RecipeError(f"no claim is called {', '.join(sorted(unknown))}", f"there are {', '.join(known)}")
    # A changed sandbox is a new sandbox: its runs stand beside those of the old one.
    runs = out / f"{sandbox.FINGERPRINT[:12]}{'-quick' if quick else ''}"
    judged: dict[str, tuple[Verdict, list[Found]]] = {}
    failed: dict[str, str] = {}
    done: dict[Path, str] = {}  # each run, and what went wrong in it
    for name, claim in known.items():
        finished = {}
        for variant, overrides in runs_of(claim).items():
            loaded = load_recipe(folder / claim.recipe, [*overrides, *(QUICK if quick else ())])
            # A changed recipe or plugin is a new run: no verdict rests on what another version has made.
            place = fork(runs / Path(claim.recipe).stem / (variant or "as-it-stands"), loaded)
            if place not in done and (not only or name in only):
                typer.echo(f"{name}: {place}")
                done[place] = ""
                try:
                    with watching() as watch:
                        engine.run(loaded, out=place, jobs=jobs or "auto", watch=watch)
                    report.write_html(place)
                except StorageError:
                    raise  # no other run could write either
                except AlignbenchError as error:
                    done[place] = str(error).splitlines()[0]
                    typer.echo(f"{name}: {done[place]}")
            if done.get(place):
                failed[name] = done[place]
            if (place / results.FILE).exists():
                finished[variant] = results.read(place)
        if len(finished) == len(runs_of(claim)):
            judged[name] = judge(claim, finished)
            typer.echo(f"{name}: {judged[name][0]}")
        text = written(known, judged, sandbox=sandbox.FINGERPRINT, quick=quick, failed=failed)
        store.write_text(page, text)
    typer.echo(f"page: {page}")
    raise typer.Exit(Exit.FAILED if failed else Exit.DONE)

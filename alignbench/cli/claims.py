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
    from alignbench import layout, report, results, sandbox, store
    from alignbench.cli.progress import watching
    from alignbench.commands.claims import Found, Verdict, judge, load, runs_of
    from alignbench.commands.claims import page as written
    from alignbench.engine import run as engine
    from alignbench.engine.environment import fork
    from alignbench.recipe.load import load as load_recipe

    known = load(folder)
    if unknown := set(only) - set(known):
        raise RecipeError(f"no claim is called {', '.join(sorted(unknown))}", f"there are {', '.join(known)}")
    # A changed sandbox is a new sandbox: its runs stand beside those of the old one.
    runs = out / f"{sandbox.FINGERPRINT[:12]}{'-quick' if quick else ''}"
    judged: dict[str, tuple[Verdict, list[Found]]] = {}
    done: dict[Path, str] = {}  # each run, and what went wrong in it
    needed = {
        name: {
            variant: load_recipe(folder / claim.recipe, [*overrides, *(QUICK if quick else ())])
            for variant, overrides in runs_of(claim).items()
        }
        for name, claim in known.items()
    }
    # A changed recipe is a new run. A changed plugin is none: what was found stands, with its environment.
    places = {
        name: {
            variant: fork(runs / loaded.path.stem / (variant or "as-it-stands"), loaded, any_environment=True)
            for variant, loaded in of.items()
        }
        for name, of in needed.items()
    }

    def finished(place: Path) -> bool:
        there = (place / layout.RESULTS).exists()
        return there and all(cell.status == "done" for cell in results.read(place).cells)

    def look(name: str) -> None:
        """Judge a claim by what its runs have left, where all of them are finished."""
        if all((place / layout.RESULTS).exists() for place in places[name].values()):
            runs = {variant: results.read(place) for variant, place in places[name].items()}
            judged[name] = judge(known[name], runs)

    for name in known:
        look(name)
    for name in only or known:
        for variant, place in places[name].items():
            if place in done or finished(place):
                continue
            typer.echo(f"{name}: {place}")
            done[place] = ""
            try:
                with watching() as watch:
                    engine.run(
                        needed[name][variant],
                        out=place,
                        max_workers=jobs or "auto",
                        allow_env_change=True,
                        watch=watch,
                    )
                report.write_html(place)
            except StorageError:
                raise  # no other run could write either
            except AlignbenchError as error:
                done[place] = str(error).splitlines()[0]
                typer.echo(f"{name}: {done[place]}")
        look(name)
        if name in judged:
            typer.echo(f"{name}: {judged[name][0]}")
        failed = {
            other: done[place]
            for other, of in places.items()
            for place in of.values()
            if other not in judged and done.get(place)
        }
        text = written(known, judged, sandbox=sandbox.FINGERPRINT, quick=quick, failed=failed)
        store.write_text(page, text)
    typer.echo(f"page: {page}")
    raise typer.Exit(Exit.FAILED if any(done.values()) else Exit.DONE)

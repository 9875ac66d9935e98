"""The command `claims`: tests claims of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError, Exit, RecipeError, StorageError

QUICK = ("seeds=[0]", "evaluation.prompts=100")
"""Recipe overrides of `--quick`."""


def claims(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder with claims.yaml and its recipes.")
    ] = Path("recipes/claims"),
    out: Annotated[Path, typer.Option(help="The folder for the runs.")] = Path("runs/claims"),
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/claims.md"),
    only: Annotated[
        list[str], typer.Option(metavar="CLAIM", help="Test only this claim; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it, nobody changes it)
    quick: Annotated[
        bool, typer.Option(help="One seed and half the prompts: numbers, but no verdict.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cells that run in parallel; on several CUDA devices: on each."),
    ] = None,
) -> None:
    """Test claims of the literature on the sandbox; finished runs are not repeated."""
    from alignbench import layout, report, results, sandbox, store
    from alignbench.cli.progress import watching
    from alignbench.commands.claims import Found, Verdict, judge, load, runs_of
    from alignbench.commands.claims import page as written
    from alignbench.engine import run as engine
    from alignbench.engine.environment import fork
    from alignbench.recipe.load import load as load_recipe

    known = load(folder)
    if unknown := set(only) - set(known):
        raise RecipeError(f"unknown claim: {', '.join(sorted(unknown))}", f"choose from {', '.join(known)}")
    # Runs of a changed sandbox get a new folder next to the old one.
    runs = out / f"{sandbox.FINGERPRINT[:12]}{'-quick' if quick else ''}"
    judged: dict[str, tuple[Verdict, list[Found]]] = {}
    done: dict[Path, str] = {}  # the error of each run, if any
    needed = {
        name: {
            variant: load_recipe(folder / claim.recipe, [*overrides, *(QUICK if quick else ())])
            for variant, overrides in runs_of(claim).items()
        }
        for name, claim in known.items()
    }
    # A changed recipe is a new run; a changed plugin is not: finished runs stay valid, with their environment.
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

    def judge_claim(name: str) -> None:
        """Judge a claim from its runs, if all of them are finished."""
        if all((place / layout.RESULTS).exists() for place in places[name].values()):
            runs = {variant: results.read(place) for variant, place in places[name].items()}
            judged[name] = judge(known[name], runs)

    for name in known:
        judge_claim(name)
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
                raise  # no further run could be written either
            except AlignbenchError as error:
                done[place] = str(error).splitlines()[0]
                typer.echo(f"{name}: {done[place]}")
        judge_claim(name)
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

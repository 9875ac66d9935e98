"""The command `generate`: preferences or demonstrations that a model writes, as a file for other recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignbench.cli.runs import ForPrograms, Overrides, RecipeFile
from alignbench.cli.shell import hush, print_json
from alignbench.errors import Problem, RecipeError


def generate(
    context: typer.Context,
    recipe: RecipeFile,
    kind: Annotated[
        Literal["preferences", "demonstrations"], typer.Argument(help="What the model writes.")
    ] = "preferences",
    out: Annotated[
        Path | None, typer.Option(help="A new folder.", show_default="generated/ and the recipe's name")
    ] = None,
    judge: Annotated[
        str, typer.Option(metavar="NAME|YAML", help="Who compares: self, {self: {wording: sandbox}}, ...")
    ] = "self",
    how: Annotated[
        str,
        typer.Option(metavar="YAML", help="Fields of labels or revisions: {answers: 4, soft: false}, ..."),
    ] = "{}",
    adapter: Annotated[
        str | None, typer.Option(metavar="PATH|ID", help="An adapter that answers, instead of the base.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the answers.")] = 0,
    overrides: Overrides = [],  # noqa: B006
    as_json: ForPrograms = False,
) -> None:
    """Let a recipe's model write preferences or demonstrations for its training prompts; train nothing."""
    from alignbench.api.config import Labelling, NamedJudge, Revising
    from alignbench.commands.generate import generate
    from alignbench.recipe.load import load

    loaded = load(recipe, overrides)
    wanted = Labelling if kind == "preferences" else Revising
    folder = out or Path("generated") / recipe.stem
    asked = _made(wanted, how, "--how")
    named = _made(NamedJudge, judge, "--judge")
    hush(context)
    facts = generate(loaded, folder, how=asked, judge=named, adapter=adapter, seed=seed)
    if as_json:
        print_json({"folder": str(folder), **facts})
        return
    typer.echo(f"{facts['kept']} {kind}: {folder / f'{kind}.jsonl'}")
    typer.echo(f"read {folder / 'README.md'} before you share them: the model's licence may bind them")


def _made(kind: Any, text: str, option: str) -> Any:
    from pydantic import ValidationError

    from alignbench.recipe import yaml

    said = yaml.parse(text, option).data
    try:
        return kind.model_validate({} if said is None else said)
    except ValidationError as error:
        problems = [
            Problem(one["msg"].lower(), field=".".join([option, *map(str, one["loc"])]))
            for one in error.errors(include_url=False)
        ]
        raise RecipeError(problems) from error

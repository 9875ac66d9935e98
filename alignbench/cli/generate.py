"""The command `generate`: model-written preferences or demonstrations as a data file for other recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignbench import layout
from alignbench.cli.runs import ForPrograms, Overrides, RecipeFile
from alignbench.cli.shell import print_json, silence_libraries
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
        str,
        typer.Option(
            metavar="NAME|YAML", help="The judge that compares: self, {self: {wording: sandbox}}, ..."
        ),
    ] = "self",
    how: Annotated[
        str,
        typer.Option(metavar="YAML", help="Settings of labels or revisions: {answers: 4, soft: false}, ..."),
    ] = "{}",
    adapter: Annotated[
        str | None, typer.Option(metavar="PATH|ID", help="An adapter that answers instead of the base.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampled answers.")] = 0,
    overrides: Overrides = [],  # noqa: B006
    as_json: ForPrograms = False,
) -> None:
    """Write preferences or demonstrations for a recipe's training prompts with its model, without training."""
    from alignbench.api.config import Labelling, NamedJudge, Revising
    from alignbench.commands.generate import generate
    from alignbench.recipe.load import load

    loaded = load(recipe, overrides)
    wanted = Labelling if kind == "preferences" else Revising
    folder = out or Path("generated") / recipe.stem
    asked = _made(wanted, how, "--how")
    named = _made(NamedJudge, judge, "--judge")
    silence_libraries(context)
    facts = generate(loaded, folder, how=asked, judge=named, adapter=adapter, seed=seed)
    if as_json:
        print_json({"folder": str(folder), **facts})
        return
    typer.echo(f"{facts['kept']} {kind}: {folder / layout.generated(kind)}")
    typer.echo(f"read {folder / 'README.md'} before you share them: the model's licence may apply")


def _made(kind: Any, text: str, option: str) -> Any:
    from pydantic import ValidationError

    from alignbench.recipe import yaml

    given = yaml.parse(text, option).data
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        problems = [
            Problem(one["msg"].lower(), field=".".join([option, *map(str, one["loc"])]))
            for one in error.errors(include_url=False)
        ]
        raise RecipeError(problems) from error

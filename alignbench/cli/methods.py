"""The command `methods`: installed methods with their fields, broken ones with the reason."""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from alignbench.cli.shell import print_json, show_table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from alignbench.plugins import Found


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this method's fields.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed methods, or show one with its fields."""
    from alignbench import plugins

    if name is not None:
        found = plugins.find("methods", name)
        plugins.load_found(found)  # a broken method is an error if named
        described = [_described(found)]
    else:
        known = plugins.installed("methods").values()
        described = [_described(one) for found in known for one in (found, *found.rivals)]
    if as_json:
        print_json(described[0] if name is not None else described)
    elif name is None:
        _list(described)
        for wrong in plugins.unusable():
            typer.echo(f"warning: {wrong}", err=True)
    else:
        _show(described[0])


def _described(found: Found) -> dict[str, Any]:
    from alignbench import plugins

    row: dict[str, Any] = {
        "name": found.name,
        "distribution": found.distribution,
        "version": found.version,
        "broken": plugins.reason_broken(found),
        "clashes_with": [str(other) for other in _others(found)],
        "unmet": list(plugins.unmet(found.distribution)),
    }
    if row["broken"] is None:
        kind = plugins.load_found(found)
        row |= {
            "description": inspect.getdoc(kind) or "",
            "reads": [view.__name__ for view in kind.consumes],
            "fields": [_field(name, field) for name, field in kind.Config.model_fields.items()],
        }
    return row


def _others(found: Found) -> list[Found]:
    from alignbench import plugins

    first = plugins.installed("methods")[found.name]
    return [one for one in (first, *first.rivals) if one.distribution != found.distribution]


def _field(name: str, field: FieldInfo) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    return {
        "name": name,
        "type": _kind(field.rebuild_annotation()),
        "default": to_jsonable_python(field.get_default(call_default_factory=True), fallback=str),
        "description": field.description or "",
    }


WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "none"}


def _kind(annotation: Any) -> str:
    """Say in words what a field holds."""
    from pydantic import BaseModel

    from alignbench.api.config import AdapterLabel, Label, NamedJudge, NamedMethod, NamedReward, NamedSource

    named = {
        NamedJudge: "judge",
        NamedMethod: "method",
        NamedReward: "reward function",
        NamedSource: "data source",
    }
    parts = get_args(annotation)
    if annotation in (Label, AdapterLabel):
        return "label"
    match get_origin(annotation):
        case None if (
            inspect.isclass(annotation) and annotation not in named and issubclass(annotation, BaseModel)
        ):
            return f"fields {', '.join(annotation.model_fields)}"
        case None:
            name = getattr(annotation, "__name__", "value")
            return named.get(annotation) or WORDS.get(annotation) or name
        case typing.Annotated:
            return _kind(parts[0])
        case typing.Literal:
            return _or([str(part) for part in parts])
        case typing.Union | types.UnionType:
            return _or(list(dict.fromkeys(map(_kind, parts))))
        case origin if origin in (list, tuple, set):
            return f"list of {_kind(parts[0])}"
        case _:
            return "mapping"


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _list(described: list[dict[str, Any]]) -> None:
    def note(row: dict[str, Any]) -> str:
        if row["broken"] is not None:
            unmet = f" (it requires {', '.join(row['unmet'])})" if row["unmet"] else ""
            return f"broken: {row['broken']}{unmet}"
        clash = f"clashes with {', '.join(row['clashes_with'])}; " if row["clashes_with"] else ""
        unmet = f"requires {', '.join(row['unmet'])}; " if row["unmet"] else ""
        return clash + unmet + row["description"].partition("\n")[0]

    rows = [(row["name"], row["distribution"], row["version"], note(row)) for row in described]
    show_table(("method", "distribution", "version", ""), rows)


def _show(row: dict[str, Any]) -> None:
    reads = ", ".join(row["reads"]) or "no rows"
    typer.echo(f"{row['name']}  ({row['distribution']} {row['version']}, reads {reads})")
    if row["clashes_with"]:
        typer.echo(
            f"clashes with {', '.join(row['clashes_with'])}: write {row['distribution']}:{row['name']}"
        )
    if row["unmet"]:
        typer.echo(f"requires {', '.join(row['unmet'])}")
    typer.echo(f"\n{row['description']}\n")
    if not row["fields"]:
        typer.echo("It has no fields of its own.")
        return
    width = min(120, shutil.get_terminal_size().columns)
    for one in row["fields"]:
        default = (
            "" if one["default"] is None else f", default {json.dumps(one['default'], ensure_ascii=False)}"
        )
        head = textwrap.wrap(f"{one['name']}: {one['type']}{default}", width, subsequent_indent="    ")
        description = " ".join(one["description"].split())
        body = textwrap.wrap(description, width, initial_indent="    ", subsequent_indent="    ")
        typer.echo("\n".join([*head, *body]))

"""The command `methods`: installed methods with their fields, broken ones with the reason."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

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
        "type": inspect.formatannotation(field.annotation).replace("typing.", ""),
        "default": to_jsonable_python(field.get_default(call_default_factory=True), fallback=str),
        "description": field.description or "",
    }


def _list(described: list[dict[str, Any]]) -> None:
    def note(row: dict[str, Any]) -> str:
        if row["broken"] is not None:
            return f"broken: {row['broken']}"
        clash = f"clashes with {', '.join(row['clashes_with'])}; " if row["clashes_with"] else ""
        return clash + row["description"].partition("\n")[0]

    rows = [(row["name"], row["distribution"], row["version"], note(row)) for row in described]
    show_table(("method", "distribution", "version", ""), rows)


def _show(row: dict[str, Any]) -> None:
    reads = ", ".join(row["reads"]) or "no rows"
    typer.echo(f"{row['name']}  ({row['distribution']} {row['version']}, reads {reads})")
    if row["clashes_with"]:
        typer.echo(
            f"clashes with {', '.join(row['clashes_with'])}: write {row['distribution']}:{row['name']}"
        )
    typer.echo(f"\n{row['description']}\n")
    if not row["fields"]:
        typer.echo("It has no fields of its own.")
        return
    fields = [(one["name"], one["type"], one["default"], one["description"]) for one in row["fields"]]
    show_table(("field", "type", "default", ""), fields)

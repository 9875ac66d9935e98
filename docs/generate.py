"""Writes the reference pages from the code; `--check` reports whether they are current."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "reference"
GROUPS = {
    "methods": "Methods",
    "judges": "Judges",
    "metrics": "Metrics",
    "data": "Data sources",
    "filters": "Row filters",
}


def pages() -> dict[str, str]:
    """Return every generated page by its file's name."""
    return {"cli.md": "\n".join(_commands()) + "\n", "config.md": "\n".join(_config()) + "\n"}


def _commands() -> Iterator[str]:
    import typer

    from alignbench.cli import app

    root = typer.main.get_command(app)
    yield "# Command line\n\nGenerated from the code by `docs/generate.py`.\n"
    yield (
        "Exit codes: 0 done, 1 a cell failed, 2 an invalid recipe or command, 3 a bug, 4 data, 5 a plugin, "
        "6 disk or store, 7 refused for safety, 130 and 143 stopped.\n"
    )
    for name, command in root.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        words = " ".join(str(one.metavar or one.name).upper() for one in arguments)
        yield f"## `{' '.join(filter(None, ('alignbench', name, words)))}`"
        yield f"\n{inspect.cleandoc(command.help or '')}\n"
        yield "| option | default | |\n|---|---|---|"
        for one in options:
            shown = one.show_default if isinstance(one.show_default, str) else one.default
            default = "" if shown in (None, False, [], (), "") else f"`{shown}`"
            yield f"| `{', '.join(one.opts)}` | {default} | {_cell(one.help)} |"
        yield ""


def _config() -> Iterator[str]:
    from alignbench import plugins
    from alignbench.recipe import schema

    yield "# Recipe and plugins\n\nGenerated from the code by `docs/generate.py`. Unknown keys are errors.\n"
    for kind in (
        schema.Recipe,
        schema.Model,
        schema.Adapter,
        schema.Data,
        schema.Where,
        schema.Training,
        schema.Budget,
        schema.MethodBlock,
        schema.Evaluation,
        schema.Sampling,
    ):
        yield f"## {kind.__name__}\n\n{inspect.getdoc(kind) or ''}\n"
        yield from _fields(kind)
    for group, title in GROUPS.items():
        yield f"## {title}\n"
        for name, found in plugins.installed(group).items():  # pyright: ignore[reportArgumentType]
            if not found.distribution.startswith("alignbench"):
                continue
            kind = plugins.load_found(found)
            yield f"### `{name}`\n\n{inspect.getdoc(kind) or ''}\n\nFrom `{found.distribution}`.\n"
            yield from _fields(kind.Config)


def _fields(kind: type) -> Iterator[str]:
    from pydantic_core import to_jsonable_python

    rows = kind.model_fields.items()  # pyright: ignore[reportAttributeAccessIssue]
    if not rows:
        return
    yield "| field | default | |\n|---|---|---|"
    for name, field in rows:
        default = "required"
        if not field.is_required():
            value = to_jsonable_python(field.get_default(call_default_factory=True), fallback=str)
            default = f"`{value}`" if value != "" else ""
        yield f"| `{name}` | {default.replace('|', chr(92) + '|')} | {_cell(field.description)} |"
    yield ""


def _cell(said: str | None) -> str:
    return " ".join((said or "").split()).replace("|", "\\|")


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    stale = []
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = FOLDER / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file))
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

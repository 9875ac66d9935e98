"""Writes the reference pages from the code; `--check` reports whether they are current."""

from __future__ import annotations

import inspect
import json
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
    "rewards": "Reward functions",
    "launchers": "Launchers",
}


def pages() -> dict[str, str]:
    """Return every generated page by its file's name."""
    return {
        "cli.md": "\n".join(_commands()) + "\n",
        "config.md": "\n".join(_config()) + "\n",
        "../data.md": "\n".join(_data()) + "\n",
    }


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


DATA = """# Your data

Made from the code by `docs/generate.py`. Every example of this page is a test (`tests/data/formats.jsonl`).

`data.train` names a `.jsonl` or `.parquet` file, a folder of them, a data set of the Hugging Face hub, or a source
plugin. All rows of a file are of one kind, which the columns of the first row decide:

| columns | kind of row |
|---|---|
{shapes}

- `ranks`: 1 is best, equal ranks are ties. `scores`: more is better. `best`: the place of the best answer, from 0.
  `ranking`: the answers, best first. `label`: whether the answer is desirable. `preference` in addition to a pair: the
  probability that the chosen answer is the better one.
- A prompt or an answer is a text, a message, or a list of messages with `role` and `content` (or `from` and `value`).
- Also read: {context}. Other names of columns: {aliases}.
- Refused where they are filled, since they change the meaning of a conversation and a row cannot hold them:
  {unread}; and tool calls, images and reasoning inside a message.
- Refused unless the row holds the text, since they are part of the question in other formats: {passages}.
- A conversation may be written as JSON in a text, as tables without lists have it.
- Every other column is kept with the row. `data.split.by` can name one of them; by default the rows of one
  conversation, those with an equal first turn of the user, stay in one split.
- A JSON array is not read; `jq -c '.[]' data.json > data.jsonl` makes lines of it.

## Columns with other names

`columns` says where a field is: a column, a path such as `completions.response`, which goes through lists, or several
columns, whose texts are joined with an empty line between them; any row may lack one of these, and a column that no
row has is an error. `null` leaves a column out.

```yaml
data:
  train: {{./alpaca.jsonl: {{columns: {{prompt: [instruction, input], completion: output}}}}}}
```

A file whose columns do not make a row is refused with the line that reads it, where there is one.

## Rows that the chat template cannot hold

A row is dropped, and its reason counted, where

- the template drops a turn or part of a text (white space may change at the ends of a text and round a tag such as
  `<think>`),
- a turn or an answer holds a special token that the template writes,
- a turn holds the words that open an answer, since it was written in the template before, or
- two answers get equal token ids.

Where more than `data.allowed_drop` of the rows are dropped, it is an error, which `alignbench check --data` reports
too: for a local model it counts tokens, on 2,048 training rows at most.

## Formats of other programs

| program or data set | format | is read as | with |
|---|---|---|---|
{formats}
"""


def _data() -> Iterator[str]:
    from alignbench.data import columns, fields

    file = Path(__file__).parents[1] / "tests" / "data" / "formats.jsonl"
    known = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    shapes = [
        f"| {', '.join(f'`{name}`' for name in one.names)} | {one.view.__name__} |" for one in fields.SHAPES
    ]
    formats = []
    for one in known:
        row, given = one.get("row"), one.get("columns")
        read = row["view"] if row else f"refused: {one['says']}"
        line = f"`{columns.as_yaml(given)}`" if given and row else ""
        formats.append(f"| {one['of']} | {one['format']} | {_cell(read)} | {line} |")
    yield DATA.format(
        shapes="\n".join(shapes),
        context=", ".join(f"`{name}`" for name in fields.CONTEXT),
        aliases=", ".join(f"`{other}` for `{name}`" for other, name in fields.ALIASES.items()),
        unread=", ".join(f"`{name}`" for name in fields.UNREAD),
        passages=", ".join(f"`{name}`" for name in fields.PASSAGES),
        formats="\n".join(formats),
    ).rstrip()


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


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


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

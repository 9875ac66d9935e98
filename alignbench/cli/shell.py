"""Shared by all commands: the app, its global options, error handling, tables and JSON output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from alignbench import __version__
from alignbench.errors import AlignbenchError, Exit, StorageError


class UnforeseenError(AlignbenchError):
    """A bug in alignbench."""

    exit_code = Exit.INTERNAL


class Commands(TyperGroup):
    """Ends every command with its exit code and one line per problem; tracebacks only with `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        json_output = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader closed the pipe. Buffered output must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.DONE) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if hasattr(error, "format_message"):  # typer's own message about a wrong command line
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            reported = _reported(error)
            complain(str(reported).splitlines())
            if json_output:
                print_json(reported.as_json())
            raise typer.Exit(reported.exit_code) from None


def _reported(error: Exception) -> AlignbenchError:
    """Return the error to report: an unexpected exception is reported as a bug."""
    from alignbench.plugins import blamed
    from alignbench.store import as_storage_error

    if isinstance(error, AlignbenchError):
        return error
    # A full disk is nobody's fault. A file that a plugin did not find is the plugin's, wherever it looked for it.
    for known in (as_storage_error(error), blamed(error), as_storage_error(error, Path.cwd())):
        if known is not None:
            return known
    if isinstance(error, OSError) and error.filename is not None:
        return StorageError(
            f"{error.filename}: {error.strerror}", "check the path, its permissions and the disk"
        )
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return UnforeseenError(what, "this is a bug in alignbench: alignbench --debug shows the traceback")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Which alignment method is best on your model, your data and your one GPU?",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alignbench {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def complain(lines: Iterable[str]) -> None:
    """Print each line to stderr as an error, with control characters escaped."""
    from alignbench.report.text import line as harmless

    for line in lines:
        typer.echo(f"error: {harmless(line)}", err=True)


def silence_libraries(context: typer.Context) -> None:
    """Silence the log messages of libraries until the command ends."""
    import logging
    import warnings

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    context.call_on_close(partial(logging.disable, logging.root.manager.disable))
    logging.disable(logging.WARNING)
    context.with_resource(warnings.catch_warnings(action="ignore"))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def show_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; nothing in it is read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from alignbench.report.text import line

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(line(cell)) for cell in row))
    Console().print(table)

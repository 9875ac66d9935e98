"""The command `chat`: every policy of a run answers the same prompt, side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.cli.runs import RunFolder
from alignbench.cli.shell import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console


def chat(
    context: typer.Context,
    run: RunFolder,
    labels: Annotated[str, typer.Option(metavar="A,B", help="Only these labels.", show_default="all")] = "",
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", metavar="TEXT", help="Ask this and exit; may be repeated.")
    ] = [],  # noqa: B006
    talk: Annotated[
        bool, typer.Option("--talk", help="Keep the conversation, each policy with its own answers.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Use the policies of this seed.", show_default="the first finished")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Sampling temperature; 0 is greedy.", show_default="each label's own"),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer in tokens.", show_default="the recipe's")
    ] = None,
) -> None:
    """Ask all policies of a run the same prompt and show their answers side by side."""
    from rich.console import Console

    from alignbench import results
    from alignbench.cli.chat_view import ChatView
    from alignbench.commands.open_run import finished, recipe_of, reopen
    from alignbench.worker.run.context import finished_policy

    found = results.read(run)
    cells = finished(found, [label for label in labels.split(",") if label], seed)
    given = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    grid = recipe_of(run).evaluation.sampling
    sampling = {
        cell: grid.at(found.temperature(cell.label)).model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        for cell in cells
    }
    silence_libraries(context)
    console = Console()
    with console.status("loading the policies") if console.is_terminal else nullcontext():
        session = reopen(run, cores())
        view = ChatView(
            {cell: finished_policy(session, cell.label, cell.seed) for cell in cells}, sampling, talk
        )
    for question in prompt or _questions(console):
        view.ask(question, console)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _questions(console: Console) -> Iterator[str]:
    """Yield typed prompts, or the lines of standard input, until the end or an empty line."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    console.print("Type a prompt for all policies; an empty line exits.", style="dim")
    while True:
        try:
            question = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not question:
            return
        yield question

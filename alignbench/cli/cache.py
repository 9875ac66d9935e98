"""The command `cache`: lists, verifies and cleans the store of artefacts that cells share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from alignbench.cli.shell import print_json, show_table
from alignbench.errors import Exit


def cache(
    action: Annotated[
        Literal["ls", "verify", "gc"],
        typer.Argument(help="ls: list. verify: check every byte. gc: delete unused entries."),
    ],
    days: Annotated[float, typer.Option(min=0, help="gc: keep entries used in the last N days.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List, verify or clean the shared store: reference log-probabilities, reward models, labels, stages."""
    from alignbench.report.text import size
    from alignbench.store import Store, default_root

    store = Store(default_root())
    if action == "gc":
        freed = store.free(unused_seconds=days * 86400)
        if as_json:
            print_json({"freed": freed})
        else:
            typer.echo(f"{store.root}: {size(sum(freed.values()))} freed in {len(freed)} entries")
        return
    entries = store.entries(verify=action == "verify")
    if as_json:
        print_json([vars(entry) | {"folder": str(entry.folder)} for entry in entries])
    else:
        rows = [
            (entry.key[:12], entry.producer, size(entry.bytes), entry.state, "in use" if entry.used else "")
            for entry in entries
        ]
        show_table(("key", "producer", "size", "state", ""), rows)
        typer.echo(f"{store.root}: {len(entries)} entries, {size(sum(entry.bytes for entry in entries))}")
    if any(entry.state == "corrupt" for entry in entries):
        raise typer.Exit(Exit.STORAGE)

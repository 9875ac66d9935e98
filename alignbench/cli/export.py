"""The command `export`: one label's policy as a folder that transformers and peft load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli.runs import ForPrograms, RunFolder
from alignbench.cli.shell import print_json, silence_libraries


def export(
    context: typer.Context,
    run: RunFolder,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The label to export.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="exports/ and the label's name")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Export this seed.", show_default="the first finished")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into the base in full precision.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the folder to this private hub repository."),
    ] = None,
    as_json: ForPrograms = False,
) -> None:
    """Write a label's adapter, or the merged model, with a model card of its numbers and recipe."""
    import tempfile

    from alignbench import results, store
    from alignbench.cli.chat import cores
    from alignbench.commands import export as engine
    from alignbench.commands.open_run import finished, recipe_of
    from alignbench.report.card import card

    found = results.read(run)
    silence_libraries(context)
    if push is not None:
        engine.may_push(push)
    (cell,) = finished(found, [label], seed)
    folder = out or Path("exports") / label
    checked = None
    if merge:
        with tempfile.TemporaryDirectory() as place:
            adapter = engine.adapter(run, cell, Path(place) / "adapter")
            checked = engine.merge(run, cell, adapter, folder, cores())
    else:
        engine.adapter(run, cell, folder)
    base = engine.base_of(run, recipe_of(run))
    text = card(found, label, cell.seed, base=base, folder=push or str(folder), merged=checked)
    store.write_text(folder / "README.md", text)
    facts: dict[str, Any] = {"folder": str(folder), "label": label, "seed": cell.seed, "merge": checked}
    if push is not None:
        facts["pushed"] = engine.push(folder, push)
    if as_json:
        print_json(facts)
        return
    typer.echo(f"{label}, seed {cell.seed}: {folder}")
    if checked:
        typer.echo(
            f"merge verified: {checked['merging_changes_at_most']:.1e} nats difference at most; the written model "
            f"is {checked['written_from_measured_mean']:.2g} nats per token from the policy that was measured"
        )
    if push is not None:
        typer.echo(f"pushed: {facts['pushed']}")

"""The commands of people as judges: label a run's answers, and measure a run again without training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignbench.cli.runs import ForPrograms
from alignbench.cli.shell import print_json, show_table
from alignbench.errors import PluginError, RecipeError


def label(
    context: typer.Context,
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="The folder of a run.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rank the answers of JSON lines instead, to train on them."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where --data keeps its labels.", show_default="labels/ and the file's name"),
    ] = None,
    rater: Annotated[
        list[str], typer.Option(metavar="NAME", help="Who ranks; each has a link; may be repeated.")
    ] = [],  # noqa: B006
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to rank.")] = 20,
    choose: Annotated[
        Literal["sample", "differ", "pairs"],
        typer.Option(help="A random sample, where labels differ most, or two labels at a time."),
    ] = "sample",
    answers: Annotated[int, typer.Option(min=2, max=9, help="Answers on one page, at most.")] = 9,
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of prompts that every rater ranks.")
    ] = 1.0,
    repeats: Annotated[
        float, typer.Option(min=0, max=1, help="Share of prompts that are shown a second time.")
    ] = 0.1,
    checks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Items with a known answer: JSON lines with ranks, or with chosen and rejected.",
        ),
    ] = None,
    ask: Annotated[
        list[str], typer.Option(metavar="score|flags|note", help="Also ask for this; may be repeated.")
    ] = [],  # noqa: B006
    require: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=SHARE",
            help="Leave raters out below this agreement, consistency or share of checks; 0 keeps all.",
        ),
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of the choice of prompts and of all orders.")] = 0,
    host: Annotated[str, typer.Option(help="The address that the page is served on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    network: Annotated[
        bool,
        typer.Option(
            "--network",
            help="Allow a --host that other machines reach. The page is unencrypted; its link is the only protection.",
        ),
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    take: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Take in an export of Argilla or Label Studio."),
    ] = None,
    give: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write items and annotations for another tool."),
    ] = None,
    format: Annotated[
        Literal["argilla", "label-studio"], typer.Option(help="What --export writes.")
    ] = "label-studio",
    status: Annotated[bool, typer.Option("--status", help="Print agreement and progress, and end.")] = False,
    as_json: ForPrograms = False,
) -> None:
    """Let people rank the answers of a run without seeing the labels; the rankings become the judge `people`."""
    from alignbench import layout
    from alignbench.commands import label as command
    from alignbench.label import thresholds
    from alignbench.label.serve import LOOPBACK
    from alignbench.report.text import visible

    if (run is None) == (data is None):
        raise RecipeError("name the folder of a run, or --data FILE", "alignbench label runs/quickstart")
    wanted = [one for text in ask for one in text.split(",")]
    if unknown := [one for one in wanted if one not in ("score", "flags", "note")]:
        raise RecipeError(f"--ask {unknown[0]}: expected score, flags or note")
    least = thresholds.parsed(require)
    if host not in LOOPBACK and not network:
        raise RecipeError(
            f"--host {host} lets other machines open the page, over a connection that anybody between can read",
            "give --network too, on a network that you trust; better: forward the port with ssh -L",
        )
    if run is not None and out is not None:
        raise RecipeError(
            "--out is where --data keeps its labels; a run keeps them in its folder", "leave it out"
        )
    how = {"overlap": overlap, "repeats": repeats, "ask": wanted, "checks": checks, "seed": seed}
    if run is not None:
        folder = run / layout.PEOPLE
    else:
        assert data is not None
        folder = out or Path("labels") / data.stem
    options = {"prompts": prompts, "choose": choose, "answers": answers} if run is not None else {}
    options |= {**how, "checks": None if checks is None else command.source_of(checks)}
    typed = {name: value for name, value in options.items() if _is_typed(context, name)}
    if data is not None and any(_is_typed(context, name) for name in ("prompts", "choose", "answers")):
        raise RecipeError(
            "--data ranks all answers of its file", "leave --prompts, --choose and --answers out"
        )
    design = command.existing(folder, data, typed)
    if design is None and run is not None:
        made = command.design_of_run(run, prompts=prompts, choice=choose, most=answers, **how)
        design = command.keep(folder, made, data, options)
    elif design is None:
        assert data is not None
        design = command.keep(folder, command.design_of_file(data, **how), data, options)
    if least:
        thresholds.write(thresholds.read(folder).model_copy(update=least), folder)
    if take is not None:
        written, passed = command.take_in(folder, design, take)
        for reason, count in passed.items():
            typer.echo(f"{count} passed over: {reason}", err=True)
        typer.echo(f"{written} annotations taken in from {take}", err=True)
    if give is not None:
        command.give_out(folder, design, give, format)
    serves = any(_is_typed(context, name) for name in ("rater", "port", "host", "network", "browser"))
    if not (status or take or give) and (serves or not least):
        command.write_rows(folder)  # what a killed server left out
        _serve(
            folder, design, rater, host, port, browser=browser and not as_json, as_json=as_json, show=visible
        )
    _tell(folder, run, as_json=as_json)


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the command line gives an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    allow_env_change: Annotated[
        bool, typer.Option("--allow-env-change", help="Evaluate although libraries or plugins have changed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: ForPrograms = False,
) -> None:
    """Measure the answers of a run again, with people's rankings; nothing is trained."""
    from contextlib import nullcontext

    from alignbench import layout, report, results
    from alignbench.cli.progress import watching
    from alignbench.commands.evaluate import evaluate

    with nullcontext(lambda message: None) if as_json else watching(quiet=quiet) as watch:
        evaluate(run, allow_env_change=allow_env_change, watch=watch)
    page = report.write_html(run)
    if as_json:
        print_json({"results": str(run / layout.RESULTS), "report": str(page)})
    elif not quiet:
        report.show(results.read(run))
        typer.echo(f"report: {page}")


def _serve(
    folder: Path,
    design: Any,
    raters: list[str],
    host: str,
    port: int,
    *,
    browser: bool,
    as_json: bool,
    show: Callable[[str], str],
) -> None:
    try:
        from alignbench.label.app import NAME
        from alignbench.label.serve import serve
    except ImportError as error:
        raise PluginError(
            f"the labelling page needs {error.name}", "pip install 'alignbench[label]'"
        ) from error
    names = list(dict.fromkeys(raters)) or ["rater-1"]
    if odd := [name for name in names if not NAME.fullmatch(name)]:
        raise RecipeError(f"--rater {odd[0]!r}: letters, digits and . @ - between them, 40 at most")

    def announce(links: dict[str, str], overview: str) -> None:
        if as_json:
            typer.echo(json.dumps({"links": links, "overview": overview}))
            return
        for name, link in links.items():
            typer.echo(f"{name} ranks at: {link}")
        typer.echo(f"agreement and progress: {overview}")
        typer.echo("Ctrl+C stops; the same command goes on.")

    serve(folder, design, names, host=host, port=port, show=show, announce=announce, browser=browser)


def _tell(folder: Path, run: Path | None, *, as_json: bool) -> None:
    """Print what is known of the labels so far, and keep the rows for training."""
    from alignbench.commands import label as command
    from alignbench.report.text import line

    found, rows = command.known(folder), command.write_rows(folder)
    if as_json:
        print_json({"folder": str(folder), "rows": str(rows), **found})
        return
    heads = ("rater", "items", "agrees with others", "agrees with itself", "known answers", "higher place")
    keys = ("agreement", "consistency", "checks", "first")
    show_table(
        heads,
        (
            [line(name), one["items"], *(_share(one[key]) for key in keys)]
            for name, one in found["raters"].items()
        ),
    )
    alpha = "n/a" if found["alpha"] is None else f"{found['alpha']:.2f}"
    typer.echo(f"two raters agree on {_share(found['agreement'])} of pairs; Krippendorff's alpha {alpha}")
    for name, reason in found["left_out"].items():
        typer.echo(f"left out: {line(name)}: {reason}")
    for what in found["unmeasured"]:
        typer.echo(f"kept without a measurement of {line(what)}")
    typer.echo(f"rows for training: {rows}")
    if run is not None:
        typer.echo(f"into the report: alignbench evaluate {shlex.quote(str(run))}")


def _share(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "n/a"
    between = "" if one["ci95"] is None else f" ({one['ci95'][0]:.0%} to {one['ci95'][1]:.0%})"
    return f"{one['value']:.0%}{between}"

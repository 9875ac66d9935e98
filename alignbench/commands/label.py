"""Labelling by people: the answers of a run, or of a file, become a design and a journal."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from alignbench import layout, results, store
from alignbench.data import jsonl
from alignbench.errors import DataError, Problem, RecipeError
from alignbench.label import design, exchange, journal, thresholds
from alignbench.label.design import Choice, Design, Item, Question
from alignbench.rows import Messages
from alignbench.worker.finished import samples

PROMPTS = f"{layout.EVALUATION}/{layout.PROMPTS}"
SCORES = f"{layout.EVALUATION}/{layout.SCORES}"


def design_of_run(
    run: Path,
    *,
    prompts: int,
    choice: Choice,
    most: int,
    overlap: float,
    repeats: float,
    ask: Sequence[Question],
    checks: Path | None,
    seed: int,
) -> Design:
    """Return the design of a run's labelling. Raises RecipeError where it has no answers to compare."""
    record = results.read(run)
    asked = _prompts(run)
    answers: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for cell in record.cells:
        if cell.status == "done" and cell.samples:
            drawn = samples.read(run / Path(cell.samples).parent)
            for one in drawn[record.temperature(cell.label)]:
                if one.sample == 0:
                    answers[one.prompt_id][cell.label][cell.seed] = one.text
    if len({label for of in answers.values() for label in of}) < 2:
        raise RecipeError(
            f"{run} has no two labels with answers to compare", "run its recipe to the end first"
        )
    spread = _spread(run, record) if choice == "differ" else None
    made = design.of_run(
        asked,
        answers,
        count=prompts,
        choice=choice,
        most=most,
        overlap=overlap,
        seed=seed,
        spread=spread,
        repeats=repeats,
        ask=tuple(ask),
        name=record.run,
    )
    return _with_checks(made, checks)


def design_of_file(
    file: Path,
    *,
    overlap: float,
    repeats: float,
    ask: Sequence[Question],
    checks: Path | None,
    seed: int,
) -> Design:
    """Return the design that ranks the answers of a file: JSON lines with `prompt` and `answers`.

    Raises DataError with every line that is something else.
    """
    items = design.shared(_items(file), overlap, seed)
    made = Design(
        tuple(items),
        prompts=len(items),
        seed=seed,
        overlap=overlap,
        repeats=repeats,
        ask=tuple(ask),
    )
    return _with_checks(made, checks)


def existing(folder: Path, data: Path | None, typed: Mapping[str, Any]) -> Design | None:
    """Return the design of a labelling that has begun in `folder`; None where none has.

    While nobody has ranked anything, other options start a new design. `typed`: the options of the design on
    the command line. Raises RecipeError where one differs from those at the beginning of the labelling, or where
    it is of another file than `data`.
    """
    if not (folder / layout.DESIGN).is_file():
        return None
    found = design.read(folder)
    if data is not None and found.extra["source"] != source_of(data):
        raise RecipeError(f"{folder} holds the labels of another file", "give --out for a new labelling")
    changed = [name for name, value in typed.items() if found.extra["options"][name] != value]
    if changed and not journal.read(folder):
        return None
    if changed:
        raise RecipeError(
            f"{folder} holds a labelling that began with another --{', --'.join(changed)}",
            "leave it out: the rankings so far belong to the prompts and orders of the earlier options",
        )
    return found


def source_of(file: Path) -> str:
    """Return what a file is known by: a digest of what it holds, or its path where there is none."""
    return store.file_digest(file) if file.is_file() else str(file)


def keep(folder: Path, made: Design, data: Path | None, options: Mapping[str, Any]) -> Design:
    """Write the design of a new labelling, with the file and the options that it is made of, and return it."""
    source = None if data is None else source_of(data)
    made = replace(made, extra={"source": source, "options": dict(options)})
    design.write(made, folder)
    return made


def known(folder: Path) -> dict[str, Any]:
    """Return what is known of a labelling, by the raters who are kept (`alignbench.label.thresholds.applied`)."""
    return thresholds.applied(design.read(folder), journal.read(folder), thresholds.read(folder))[0]


def write_rows(folder: Path) -> Path:
    """Write the rankings of the raters who are kept as rows for training, next to the journal; return the file."""
    made = design.read(folder)
    _, kept = thresholds.applied(made, journal.read(folder), thresholds.read(folder))
    rows = exchange.rankings(made, kept)
    store.write_text(
        folder / layout.RANKINGS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    return folder / layout.RANKINGS


def take_in(folder: Path, made: Design, file: Path) -> tuple[int, Counter[str]]:
    """Write the annotations of an export into the journal; return how many, and why others were passed over.

    Raises DataError where the file is not an export, StorageError where another process writes to the journal.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        records = json.loads(text)
    except json.JSONDecodeError as error:
        what, fix = f"is not JSON: {error.msg}", "give a JSON export"
        raise DataError(Problem(what, fix, str(file), error.lineno, error.colno)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(Problem(f"cannot be read: {error}", "give a JSON export", file=str(file))) from error
    annotations, passed = exchange.imported(made, records, str(file), _lines(text))
    written = 0
    with journal.opened(folder) as opened:
        for annotation in annotations:
            if annotation.place in opened.annotations:
                passed["the rater has ranked it already"] += 1
                continue
            opened.append(annotation)
            written += 1
    return written, passed


def _lines(text: str) -> list[int]:
    """The lines at which the members of a JSON list begin; none where `text` holds no list."""
    space, found = re.compile(r"[\s,]*"), []
    at, line, decoder = text.find("[") + 1, 1, json.JSONDecoder()
    if text[: at - 1].strip() or not at:
        return []
    seen = 0
    while text[at := _end(space.match(text, at))] != "]":
        line, seen = line + text.count("\n", seen, at), at
        found.append(line)
        _, at = decoder.raw_decode(text, at)
    return found


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # it matches nothing at least
    return match.end()


def give_out(folder: Path, made: Design, file: Path, format: exchange.Format) -> None:
    """Write items and annotations as another tool reads them."""
    records = exchange.exported(made, journal.read(folder), format)
    store.write_text(file, json.dumps(records, ensure_ascii=False, indent=1) + "\n")


def _prompts(run: Path) -> dict[str, Messages]:
    file = run / PROMPTS
    if not file.is_file():
        raise RecipeError(f"{run} holds no evaluation", "run its recipe to the end first")
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {one["id"]: tuple(one["prompt"]) for one in lines}


def _spread(run: Path, record: results.Results) -> dict[str, float] | None:
    """How far the labels' mean scores by the first judge lie apart, by prompt; None where it gave none."""
    import pyarrow.parquet as pq

    if not record.judges or not (run / SCORES).is_file():
        return None
    first = record.judges[0].get("name")
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in pq.read_table(run / SCORES).to_pylist():
        if row["judge"] == first and row["score"] is not None:
            scores[row["prompt_id"]][row["label"]].append(row["score"])
    means = {id: [fmean(of) for of in labels.values()] for id, labels in scores.items()}
    return {id: max(ones) - min(ones) for id, ones in means.items()} or None


def _with_checks(made: Design, checks: Path | None) -> Design:
    if checks is None:
        return made
    known = _items(checks, known=True)
    fields = {name: getattr(made, name) for name in Design.__slots__}
    return Design(**{**fields, "items": (*made.items, *known)})


def _items(file: Path, *, known: bool = False) -> list[Item]:
    """The items of a file; with `known` each line also has `ranks`, or `chosen` and `rejected`."""
    if not file.is_file():
        raise DataError(Problem("there is no such file", "check the path", file=str(file)))
    problems: list[Problem] = []
    found: dict[str, Item] = {}
    for line in jsonl.read(file, str(file), problems.append, Counter()):
        record = line.record
        prompt, answers, ranks = record.get("prompt"), record.get("answers"), record.get("ranks")
        if answers is None and "chosen" in record and "rejected" in record:
            answers, ranks = [record["chosen"], record["rejected"]], [1, 2]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        texts = [_text(one) for one in answers] if isinstance(answers, list) else []
        what, field = "", None
        if half := design.half_character(record):
            what, field = design.HALF, half.removeprefix(".")
        elif not _are_turns(turns):
            what = "`prompt` is neither a text nor a list of turns"
        elif None in texts or len(set(texts)) < 2:
            what = "`answers` is not a list of two different texts or more"
        elif len(set(texts)) > design.MOST_ANSWERS:
            what = f"{len(set(texts))} answers; a page holds {design.MOST_ANSWERS}"
        elif known and (not isinstance(ranks, list) or len(ranks) != len(texts)):
            what = "a check needs `ranks`, one for each answer, or `chosen` and `rejected`"
        elif known and not all(type(one) is int and one >= 1 for one in ranks or ()):
            what, field = "the `ranks` of a check are whole numbers from 1 on", "ranks"
        elif known and len(set(ranks or ())) < 2:
            what, field = "a check whose answers all have one rank decides nothing", "ranks"
        elif known and len(set(texts)) < len(texts):
            what = "two answers of a check are the same text"
        if what:
            fix = 'write {"prompt": ..., "answers": [...]}'
            problems.append(Problem(what, fix, file=str(file), line=line.number, field=field))
            continue
        shown = [text for text in texts if text is not None]
        made = design.item(
            tuple(turns or ()), shown, known=exchange.compact(ranks) if known and ranks else ()
        )
        found[made.id] = made
    if problems or not found:
        raise DataError(problems or Problem("holds no line", "give JSON lines", file=str(file)))
    return list(found.values())


def _text(answer: Any) -> str | None:
    """The text of an answer: itself, or the last turn of a conversation."""
    if isinstance(answer, list) and answer and isinstance(answer[-1], dict):
        answer = answer[-1].get("content")
    return answer if isinstance(answer, str) else None


def _are_turns(turns: Any) -> bool:
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(isinstance(one, dict) and isinstance(one.get("content"), str) for one in turns)
    )

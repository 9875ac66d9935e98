"""`alignbench label` as a person meets it, and a run that is measured again with people's rankings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import log10
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from alignbench import layout
from alignbench.cli import app
from alignbench.data.sources import Jsonl
from alignbench.judges import people
from alignbench.label import design, thresholds
from alignbench.label.journal import opened
from alignbench.label.progress import Progress
from alignbench.rows import Ranking


def alignbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rank_all(folder: Path, make_annotation, *names: str) -> None:
    made = design.read(folder)
    with opened(folder) as journal:
        progress = Progress(made, journal)
        for name in names:
            while turn := progress.next(name):
                ranks = range(1, len(turn.item.answers) + 1)
                journal.append(make_annotation(turn.item, name, ranks, turn.round, shown=tuple(turn.shown)))


def reverse_all(folder: Path, make_annotation, name: str) -> None:
    """What a rater says who prefers the opposite of everybody else."""
    with opened(folder) as journal:
        for item in design.read(folder).items:
            if len(item.answers) > 1:
                journal.append(make_annotation(item, name, range(len(item.answers), 0, -1)))


def test_a_run_is_sampled_once_and_the_same_command_goes_on(run: Path, make_annotation):
    assert alignbench("label", run, "--prompts", 6, "--status").exit_code == 0
    first = (run / "people/design.json").read_bytes()
    rank_all(run / "people", make_annotation, "anna", "ben")
    refused = alignbench("label", run, "--prompts", 9, "--status")
    assert (refused.exit_code, "began with another --prompts" in refused.stderr) == (2, True)
    assert alignbench("label", run, "--prompts", 6, "--status").exit_code == 0
    ended = alignbench("label", run, "--status", "--json")
    assert (run / "people/design.json").read_bytes() == first
    known = json.loads(ended.stdout)
    assert known["chosen"] == "a random sample of the evaluation prompts: 6 of 20"
    assert known["agreement"]["value"] == 1
    assert set(known["raters"]) == {"anna", "ben"}


def test_every_seed_of_a_prompt_is_ranked(make_run, tmp_path: Path):
    folder = make_run(tmp_path / "run", texts=lambda n, label, seed: f"{n}{label}{seed}", seeds=(0, 1))
    assert alignbench("label", folder, "--prompts", 4, "--status").exit_code == 0
    assert len(design.read(folder / "people").items) == 8


def test_answers_of_a_file_become_rows_that_a_recipe_can_train_on(tmp_path: Path, make_annotation):
    file = tmp_path / "answers.jsonl"
    lines = [{"prompt": f"Question {n}?", "answers": ["one", "two", "three"]} for n in range(4)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "labels"
    assert alignbench("label", "--data", file, "--out", out, "--status").exit_code == 0
    rank_all(out, make_annotation, "anna")
    assert alignbench("label", "--data", file, "--out", out, "--status").exit_code == 0
    rows = list(Jsonl(Jsonl.Config(path="rankings.jsonl"), root=out).rows("train", None, 0))
    assert len(rows) == 4
    assert all(isinstance(row, Ranking) and row.extra["annotator"] == "anna" for row in rows)


def test_labels_of_a_file_are_not_those_of_another(tmp_path: Path):
    line = {"prompt": "Question?", "answers": ["one", "two"]}
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(json.dumps({**line, "prompt": name}) + "\n")
    out = ("--out", tmp_path / "labels", "--status")
    assert alignbench("label", "--data", tmp_path / "mine/a.jsonl", *out).exit_code == 0
    refused = alignbench("label", "--data", tmp_path / "other/a.jsonl", *out)
    assert (refused.exit_code, "labels of another file" in refused.stderr) == (2, True)
    assert (
        "leave --prompts"
        in alignbench("label", "--data", tmp_path / "mine/a.jsonl", *out, "--prompts", 3).stderr
    )


def test_every_bad_line_of_a_file_is_said_with_its_number(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    file.write_text(
        '{"prompt": "?"}\n{"prompt": "?", "answers": ["a", "b"]}\n{"prompt": 1, "answers": ["a", "b"]}\n'
    )
    ended = alignbench("label", "--data", file, "--out", tmp_path / "out", "--status")
    assert ended.exit_code == 4
    assert f"{file}:1" in ended.stderr
    assert f"{file}:3" in ended.stderr
    assert not (tmp_path / "out" / layout.DESIGN).exists()


def test_half_a_character_in_a_file_is_said_with_its_line_and_field(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    file.write_text(
        '{"prompt": "?", "answers": ["a", "b"]}\n{"prompt": "?", "answers": ["a", "\\ud83d"]}\n'
        '{"prompt": [{"role": "user", "content": "\\udc00"}], "answers": ["a", "b"]}\n'
    )
    ended = alignbench("label", "--data", file, "--out", tmp_path / "out", "--status")
    assert ended.exit_code == 4
    assert f"{file}:2: answers[1]: holds a lone surrogate" in ended.stderr
    assert f"{file}:3: prompt[0].content: holds a lone surrogate" in ended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1:1: is not JSON"),
        ('[\n {"fields": {}},\n {"fields": 3}\n]', ":3: [1].fields: expected an object"),
        ('[{"fields": {}},\n\n 7 ]', ":3: [1]: is not an export"),
        ('[{"data": {"prompt": "\\ud800"}}]', ":1: [0].data.prompt: holds a lone surrogate"),
        ("[1,\n2", ":2:2: is not JSON"),
        ("{}", ": is not an export of Argilla or Label Studio"),
    ],
)
def test_a_bad_record_of_an_export_is_said_with_file_line_and_field(run: Path, tmp_path, text, words):
    file = tmp_path / "export.json"
    file.write_text(text)
    ended = alignbench("label", run, "--import", file)
    assert ended.exit_code == 4
    assert f"{file}{words}" in ended.stderr
    file.write_bytes(b"\xef\xbb\xbf[]")  # a byte-order mark is not a fault
    assert alignbench("label", run, "--import", file).exit_code == 0


def test_checks_with_known_answers_are_shown_to_everyone(run: Path, tmp_path: Path, make_annotation):
    checks = tmp_path / "checks.jsonl"
    checks.write_text('{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n')
    alignbench("label", run, "--prompts", 3, "--overlap", 0, "--checks", checks, "--status")
    rank_all(run / "people", make_annotation, "anna", "ben")
    known = json.loads(alignbench("label", run, "--status", "--json").stdout)
    assert [one["checks"]["value"] for one in known["raters"].values()] == [1, 1]


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ('[1, "a"]', "ranks: the `ranks` of a check are whole numbers from 1 on"),
        ("[[1], [2]]", "ranks: the `ranks` of a check are whole numbers from 1 on"),
        ("[1, null]", "ranks: the `ranks` of a check are whole numbers from 1 on"),
        ("[1, 1]", "ranks: a check whose answers all have one rank decides nothing"),
    ],
)
def test_a_check_without_a_known_order_is_said_with_its_line(run: Path, tmp_path: Path, ranks, words):
    checks = tmp_path / "checks.jsonl"
    checks.write_text(f'{{"prompt": "k", "answers": ["x", "y"], "ranks": {ranks}}}\n')
    ended = alignbench("label", run, "--checks", checks, "--status")
    assert ended.exit_code == 4
    assert f"{checks}:1: {words}" in ended.stderr


def test_other_options_begin_anew_while_nobody_has_ranked(run: Path, make_annotation):
    assert alignbench("label", run, "--prompts", 6, "--status").exit_code == 0
    assert alignbench("label", run, "--prompts", 3, "--status").exit_code == 0
    assert len(design.read(run / "people").items) == 3
    rank_all(run / "people", make_annotation, "anna")
    assert alignbench("label", run, "--prompts", 6, "--status").exit_code == 2


def test_an_export_is_taken_in_once(run: Path, tmp_path: Path, make_annotation):
    alignbench("label", run, "--prompts", 3, "--status")
    rank_all(run / "people", make_annotation, "anna")
    out = tmp_path / "tasks.json"
    assert alignbench("label", run, "--export", out, "--format", "argilla").exit_code == 0
    out.write_text(out.read_text().replace('"anna"', '"zoe"'))
    assert "3 annotations taken in" in alignbench("label", run, "--import", out).stderr
    again = alignbench("label", run, "--import", out).stderr
    assert "0 annotations taken in" in again
    assert "3 passed over: the rater has ranked it already" in again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the folder of a run"),
        (("RUN", "--host", "0.0.0.0"), "lets other machines open the page"),
        (("RUN", "--ask", "mood"), "expected score, flags or note"),
        (("RUN", "--out", "elsewhere"), "a run keeps them in its folder"),
        (("RUN", "--rater", "<script>"), "letters, digits"),
        (("RUN", "--rater", "../x"), "letters, digits"),
    ],
)
def test_what_cannot_be_served_is_said(run: Path, arguments: tuple[str, ...], words: str):
    ended = alignbench("label", *(str(run) if one == "RUN" else one for one in arguments))
    assert ended.exit_code == 2
    assert words in ended.stderr


def test_a_folder_that_holds_no_run_is_said(tmp_path: Path):
    assert alignbench("label", tmp_path, "--status").exit_code == 2
    assert alignbench("evaluate", tmp_path).exit_code == 2


def test_labelling_loads_no_torch(run: Path):
    script = (
        "import sys\nfrom alignbench.cli import app\n"
        f"try:\n    app(['label', {str(run)!r}, '--status'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 96, max_length: 128}
training: {threads: 1, batch: 8}
evaluation: {prompts: 16, sampling: {max_new_tokens: 16}, judges: [gold], metrics: [reward, win_rate]}
methods:
  sft: {start: base, learning_rate: 1.0e-2}
"""


@pytest.mark.slow
def test_a_run_is_measured_again_with_people_and_nothing_is_trained_again(
    tmp_path: Path, make_annotation, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    env = {**os.environ, "ALIGNBENCH_HOME": str(tmp_path / "home")}

    def command(*arguments: object) -> None:
        line = [sys.executable, "-c", "from alignbench.cli import app; app()", *map(str, arguments)]
        subprocess.run(line, env=env, check=True, cwd=tmp_path, capture_output=True)

    run = tmp_path / "run"
    command("run", "recipe.yaml", "--out", run, "-q")
    sealed = {file: file.stat().st_mtime_ns for file in (run / "cells").rglob("COMMIT")}
    command("label", run, "--prompts", 16, "--repeats", 0, "--status")
    rank_all(run / "people", make_annotation, "anna", "ben")
    command("evaluate", run, "-q")
    assert {file: file.stat().st_mtime_ns for file in (run / "cells").rglob("COMMIT")} == sealed
    record = json.loads((run / "results.json").read_text())
    assert [one["name"] for one in record["judges"]] == ["gold", "people", "people:anna", "people:ben"]
    (sft,) = (one for one in record["labels"] if one["label"] == "sft")
    made = design.read(run / "people")
    base = [next(n for n, one in enumerate(item.answers) if "base" in one.labels) for item in made.items]
    other = [next(n for n, one in enumerate(item.answers) if "sft" in one.labels) for item in made.items]
    by_hand = sum(0.5 if a == b else float(b < a) for a, b in zip(base, other, strict=True)) / len(base)
    assert sft["metrics"]["win_rate@people"]["value"] == pytest.approx(by_hand)
    elo = sft["metrics"]["elo@people"][
        "value"
    ]  # the recipe asks for no strengths; of two labels they are log odds
    assert elo == pytest.approx(400 * log10(by_hand / (1 - by_hand)), abs=0.01)
    page = (run / "report.html").read_text()
    table = page[page.index('id="leaderboard"') : page.index("</table>", page.index('id="leaderboard"'))]
    row = next(one for one in table.split("<tr")[1:] if ">sft<" in one or "sft</" in one)
    assert "win rate (people)" in table
    assert f"{by_hand:.3f}" in row or f"{by_hand:.2f}" in row
    assert "win rate (people): of 2 raters only: another rater may differ by more" in page
    assert "people:anna" in (run / "report.html").read_text()
    before = (run / "evaluation/COMMIT").stat().st_mtime_ns
    command("run", "recipe.yaml", "--out", run, "-q")
    assert (run / "evaluation/COMMIT").stat().st_mtime_ns == before  # the same annotations: nothing to do
    reverse_all(run / "people", make_annotation, "cara")
    command("label", run, "--require", "agreement=0.4")
    command("evaluate", run, "-q")
    assert win_rate_of_people(run) == pytest.approx(by_hand)
    assert "cara: agreement" in (run / "report.html").read_text()


def win_rate_of_people(run: Path) -> float:
    record = json.loads((run / "results.json").read_text())
    (sft,) = (one for one in record["labels"] if one["label"] == "sft")
    return sft["metrics"]["win_rate@people"]["value"]


def test_bars_leave_raters_out_of_the_judge_and_of_the_rows_until_they_are_taken_off(
    run: Path, make_annotation
):
    assert alignbench("label", run, "--prompts", 6, "--status").exit_code == 0
    rank_all(run / "people", make_annotation, "anna", "ben")
    reverse_all(run / "people", make_annotation, "cara")

    def annotators() -> set[str]:
        lines = (run / "people/rankings.jsonl").read_text().splitlines()
        return {json.loads(line)["annotator"] for line in lines}

    done = alignbench("label", run, "--require", "agreement=0.4")
    assert "left out: cara: agreement 0% is below 40%" in done.stdout
    known = json.loads(alignbench("label", run, "--status", "--json").stdout)
    judge = people.of_run(run)["people"]
    agreement = json.loads(json.dumps(judge.quality["agreement"]))
    assert known["agreement"] == agreement  # status and report speak of the same raters
    assert (known["alpha"], known["agreement"]["value"]) == (judge.quality["labels"]["alpha"], 1)
    assert (known["thresholds"], set(known["raters"])) == ({"agreement": 0.4}, {"anna", "ben", "cara"})
    assert list(people.of_run(run)) == ["people", "people:anna", "people:ben"]
    assert annotators() == {"anna", "ben"}
    before = thresholds.digest(run / "people")
    assert json.loads(alignbench("label", run, "--require", "agreement=0", "--json").stdout)["left_out"] == {}
    assert thresholds.digest(run / "people") != before  # the report is made again
    assert annotators() == {"anna", "ben", "cara"}
    assert list(people.of_run(run)) == ["people", "people:anna", "people:ben", "people:cara"]


@pytest.mark.parametrize("text", ["agreement", "skill=0.5", "checks=2", "checks=most"])
def test_a_bar_that_is_none_is_refused_before_anything_is_written(run: Path, text: str):
    refused = alignbench("label", run, "--require", text)
    assert (refused.exit_code, f"--require {text}: expected a name" in refused.stderr) == (2, True)
    assert not (run / "people").exists()

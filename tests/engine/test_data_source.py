"""`data.source`: the same prompts, and comparisons of the answers that a policy gives to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignbench.engine import keys
from alignbench.engine.cells import PlannedCell, cells_of
from alignbench.errors import AlignbenchError
from alignbench.recipe.graph import edges, relabelled
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe, Relabelled
from alignbench.rows import Demonstration, Pair, Prompt, UnpairedPreference
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import CellContext, finished_policy
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell

LABELS = {"answers": 2, "sampling": {"max_new_tokens": 24}}
JUDGE = {"self": {"wording": "sandbox"}}


def recipe(source: Any, **methods: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": 32, "max_length": 128, "source": source},
            "training": {"batch": 8, "threads": 1},
            "budget": {"steps": 2},
            "methods": {
                "tuned": {"method": "sft", "config": {"learning_rate": 3e-3}},
                "direct": {"method": "dpo", "start": "base"},
                "stacked": {"method": "dpo", "start": "tuned"},
                **methods,
            },
        }
    )


def by(policy: str) -> dict[str, Any]:
    return {"policy": policy, "judge": JUDGE, "labels": LABELS}


def make_session(folder: Path, source: Any) -> Session:
    session = open_session(folder, recipe(source))
    tuned = folder / "run" / "cells" / "tuned" / "seed-0"
    tuned.mkdir(parents=True)
    cell.align(session, "tuned", 0, tuned)
    return session


def a_run(session: Session, label: str, folder: Path) -> CellContext:
    block = session.recipe.methods[label]
    folder.mkdir(exist_ok=True)
    return CellContext(
        session,
        label=label,
        seed=0,
        method=block.method,
        start=block.start,
        folder=folder,
        comparisons=session.plan.labels[label].comparisons,
    )


def answers_of(session: Session, label: str, run: CellContext) -> dict[str, set[str]]:
    """What a policy says to the training prompts, drawn here once more."""
    prompts = list(session.table.rows(Prompt, "train", seed=0))
    how = Relabelled.model_validate(by(label)).labels
    found: dict[str, set[str]] = {}
    for one in finished_policy(session, label, 0).answer(
        prompts, how.sampling, run.number("labels"), samples=2
    ):
        found.setdefault(one.prompt_id, set()).add(one.text)
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return make_session(tmp_path_factory.mktemp("source"), by("tuned"))


def test_the_comparisons_are_of_answers_that_the_policy_gives_to_the_tables_prompts(
    session: Session, tmp_path: Path
):
    run = a_run(session, "direct", tmp_path)
    rows = list(run.rows(Pair))
    written = answers_of(session, "tuned", run)
    by_text = {row.prompt[-1]["content"]: row.id for row in session.table.rows(Prompt, "train", seed=0)}
    assert len(rows) > 5
    for row in rows:
        assert {row.chosen, row.rejected} == written[by_text[row.prompt[-1]["content"]]]
        assert 0.5 <= row.preference <= 1
    assert next(iter(run.rows(UnpairedPreference))).prompt == rows[0].prompt


def test_the_judge_is_paid_and_no_annotator_is(session: Session, tmp_path: Path):
    run = a_run(session, "direct", tmp_path)
    run.rows(Pair)
    assert run.ledger.cost.ai_comparisons > 0
    assert run.ledger.cost.judge_calls > 0
    assert run.ledger.public()["comparisons"] == 0
    assert [one["name"] for one in run.ledger.judges] == ["self"]
    kept = {row.id for row in session.table.kept("train")}
    assert run.ledger.rows["train"] == kept


def test_demonstrations_and_prompts_stay_the_files(session: Session, tmp_path: Path):
    run = a_run(session, "direct", tmp_path)
    for view in (Demonstration, Prompt):
        assert list(run.rows(view)) == list(session.table.rows(view, "train", seed=0))
    assert list(run.rows(Pair, "validation")) == list(session.table.rows(Pair, "validation", seed=0))


def test_start_is_the_policy_that_each_method_starts_from(tmp_path: Path):
    session = make_session(tmp_path, by("start"))
    direct, stacked = a_run(session, "direct", tmp_path / "d"), a_run(session, "stacked", tmp_path / "s")
    for run, label in ((direct, "base"), (stacked, "tuned")):
        written = set().union(*answers_of(session, label, run).values())
        assert {text for row in run.rows(Pair) for text in (row.chosen, row.rejected)} <= written


def test_the_policy_that_writes_them_comes_first_and_reads_the_files_itself():
    given = recipe(by("stacked"), other={"method": "sft"})
    assert edges(given) == {"tuned": (), "direct": ("stacked",), "stacked": ("tuned",), "other": ()}
    assert [one.label for one in cells_of(resolve(given))].index("stacked") < 4
    assert relabelled(given, "stacked") is None
    assert relabelled(given, "other") is None  # it learns from no comparison
    assert relabelled(given, "direct") == given.data.source
    assert edges(recipe("file"))["direct"] == ()


def test_who_reads_the_files_comparisons_where_others_do_not_departs(tmp_path: Path):
    session = make_session(tmp_path, by("stacked"))
    run = a_run(session, "stacked", tmp_path / "s")
    assert list(run.rows(Pair)) == list(session.table.rows(Pair, "train", seed=0))
    assert run.ledger.departures == []
    found = {
        label: [str(one) for one in session.plan.labels[label].departures] for label in ("stacked", "direct")
    }
    assert "comparisons: the file's instead of answers of stacked" in found["stacked"]
    assert found["direct"] == ["labelled by its own base, as the judge self"]


def test_a_cell_that_learns_from_other_comparisons_is_another_cell():
    def key(source: Any, label: str) -> str:
        one = PlannedCell(label, 0)
        return keys.cell_key(resolve(recipe(source)), one, versions={}, data="", parents={}, files={})

    assert key("file", "direct") != key("start", "direct") != key("tuned", "direct")
    assert key("file", "tuned") == key("start", "tuned")


TEXT = """\
model: {{id: sandbox}}
data: {{train: sandbox, source: {source}}}
methods: {{sft: {{}}, dpo: {{}}}}
evaluation: {{judges: [{judge}]}}
"""


@pytest.mark.parametrize(
    ("source", "judge", "field", "message"),
    [
        ("stf", "gold", "data.source", "there is no label 'stf'; did you mean 'sft'?"),
        ("{policy: stf}", "gold", "data.source.policy", "there is no label 'stf'; did you mean 'sft'?"),
        ("{polcy: sft}", "gold", "data.source.polcy", "unknown; did you mean 'policy'?"),
        ("{judge: gold}", "gold", "data.source.judge", "evaluation judge and never enters training"),
        ("sft", "self", "data.source.judge", "'data.source' learns from the judge 'self'"),
        ("{judge: {self: {polcy: 1}}}", "gold", "data.source.judge.self.polcy", "did you mean 'policy'?"),
        ("{labels: {answers: 1}}", "gold", "data.source.labels.answers", "at least 2"),
        ("7", "gold", "data.source", "expected 'file', 'start', a label"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_where_it_stands(
    tmp_path: Path, source: str, judge: str, field: str, message: str
):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.format(source=source, judge=judge))
    with pytest.raises(AlignbenchError) as caught:
        load(path)
    (one,) = caught.value.problems
    assert (one.field, one.line) == (field, 2)
    assert message in f"{one.what}; {one.fix}"


def test_a_source_in_its_short_form_is_spelled_out(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.format(source="sft", judge="gold"))
    source = load(path).recipe.data.source
    assert isinstance(source, Relabelled)
    assert (source.policy, source.judge.name, source.judge.config["min_mass"]) == ("sft", "self", 0.01)

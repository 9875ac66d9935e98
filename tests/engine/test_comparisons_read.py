"""What a cell's record says of the comparisons it read: each counts once, and once a loss is told its outcome."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alignbench import layout
from alignbench.engine.cells import PlannedCell
from alignbench.engine.collect import _read_twice, _sum
from alignbench.results import Cost
from alignbench.rewards import reward_model
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, UnpairedPreference
from alignbench.testing.sessions import open_session
from alignbench.training.checkpoint import Checkpoints
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.ledger import Ledger
from alignbench.worker.run.row_origins import MODEL, PEOPLE
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as cells

EPOCHS = 3


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(
        tmp_path_factory.mktemp("read"),
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": 24, "max_length": 128},
            "training": {"batch": 8, "threads": 1},
            "budget": {"epochs": EPOCHS},
            "methods": {name: {} for name in ("sft", "dpo", "kto")},
            "evaluation": {"prompts": 4},
        },
    )


def align(session: Session, label: str, name: str) -> CellContext:
    folder = session.run / layout.CELLS / name
    folder.mkdir(parents=True)
    return cells.align(session, label, 0, folder)[0]


def a_run(session: Session, folder: Path, **how: Any) -> CellContext:
    folder.mkdir(exist_ok=True)
    return CellContext(session, label="tried", seed=0, method="dpo", start="base", folder=folder, **how)


def drawn(session: Session) -> set[tuple[str, str, str]]:
    """The pairs that the rankings of the table give in all epochs together."""
    rows = session.table.rows(Pair, seed=0)
    epochs = [{(row.id, row.chosen, row.rejected) for row in rows.epoch(number)} for number in range(EPOCHS)]
    assert all(one != other for one, other in pairwise(epochs)), "a ranking draws another pair each epoch"
    return set().union(*epochs)


@pytest.mark.parametrize("label", ["dpo", "kto"])
def test_a_pair_that_is_drawn_in_several_epochs_is_one_comparison(session: Session, label: str):
    run = align(session, label, f"drawn-{label}")
    assert run.drawn("epochs") == EPOCHS
    assert len(run.ledger.comparisons(PEOPLE)) == len(drawn(session)) < EPOCHS * run.size
    assert run.ledger.public()["comparisons"] == len(drawn(session))
    assert run.ledger.public()["ai_comparisons"] == 0


def test_an_answer_that_is_imitated_is_no_comparison(session: Session):
    public = align(session, "sft", "imitated").ledger.public()
    assert (public["prompts"], public["comparisons"]) == (24, 0)


@pytest.mark.parametrize("batching", ["per-prompt", "shuffled-pairs"])
def test_a_reward_model_reads_each_comparison_of_a_ranking_once(
    session: Session, batching: Any, tmp_path: Path
):
    run = a_run(session, tmp_path)
    reward_model(run, learning_rate=1e-3, epochs=2, batching=batching)
    every = sum(len(row.comparisons()) for row in session.table.rows(Ranking, seed=0))
    assert len(run.ledger.comparisons(PEOPLE)) == every > 24
    assert f", {every} comparisons, " in str(run.ledger.departures[0])


def test_a_training_that_was_killed_has_read_what_one_that_was_not_has(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    monkeypatch.setattr(session, "task", replace(session.task, every=0.0))
    monkeypatch.setattr("alignbench.training.checkpoint.SHARE", 0)
    save = Checkpoints.save

    def die_after(self: Checkpoints, step: int, value: Any) -> None:
        save(self, step, value)
        if step == 5:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", die_after)
    folder = session.run / layout.CELLS / "killed"
    folder.mkdir()
    with pytest.raises(Killed):
        cells.align(session, "dpo", 0, folder)
    again = cells.align(session, "dpo", 0, folder)[0]
    assert len(again.ledger.comparisons(PEOPLE)) == len(drawn(session))
    assert again.ledger.reading == {}


def test_two_stages_that_read_the_same_have_read_it_once(session: Session, tmp_path: Path):
    run = a_run(session, tmp_path)
    first = run.stage("dpo", budget=run.budget.part(1 / EPOCHS))
    once = set(run.ledger.comparisons(PEOPLE))
    run.stage("dpo", start=first, budget=run.budget.part(1 / EPOCHS), beta=0.2)
    assert run.ledger.comparisons(PEOPLE) == once
    assert len(once) == 24


def test_rows_of_the_table_that_a_method_hands_to_a_stage_are_still_peoples(session: Session, tmp_path: Path):
    run = a_run(session, tmp_path)
    run.stage("dpo", rows=list(run.rows(Pair))[:8], budget=run.budget.part(1 / EPOCHS))
    assert len(run.ledger.comparisons(PEOPLE)) == 8


def test_who_said_it_and_what_was_said_decide_whose_comparison_a_row_is(session: Session, tmp_path: Path):
    run = a_run(session, tmp_path)
    row = next(iter(run.rows(Pair)))
    turned = replace(
        row,
        chosen=row.rejected,
        rejected=row.chosen,
        chosen_ids=row.rejected_ids,
        rejected_ids=row.chosen_ids,
    )
    labelled = replace(row, extra={**row.extra, "judge": "self"})
    given = list(run.rows(Pair, given=[row, turned, labelled]))
    assert [len(list(run.origins.compared([one]))) for one in given] == [1, 0, 0]
    assert {who for who, _ in run.origins.compared(given[:1])} == {PEOPLE}
    for view in (Demonstration, Prompt):
        assert list(run.origins.compared(run.rows(view))) == []


def test_data_that_a_judge_has_compared_are_no_comparisons_of_people(session: Session, tmp_path: Path):
    """What a judge writes into a file of preferences carries its name."""
    written = tmp_path / "labelled.jsonl"
    rows = [
        {"prompt": f"What is {number}?", "chosen": "A number.", "rejected": "Nothing.", "judge": "self"}
        for number in range(40)
    ]
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": str(written), "max_length": 128},
        "training": {"batch": 8, "threads": 1},
        "budget": {"rows": 16},
        "methods": {"dpo": {}},
        "evaluation": {"prompts": 2},
    }
    ledger = align(open_session(tmp_path, recipe), "dpo", "of-a-file").ledger
    assert len(ledger.comparisons(MODEL)) == 16
    assert (ledger.public()["comparisons"], ledger.public()["ai_comparisons"]) == (0, 16)


def test_one_of_two_answers_tells_of_one_comparison(session: Session, tmp_path: Path):
    """The last step of a budget may have room for one of them."""
    run = a_run(session, tmp_path)
    good, bad = list(run.rows(UnpairedPreference))[:2]
    assert good.id == bad.id
    both = list(run.origins.compared([good, bad]))
    assert len(both) == 1
    for one in (good, bad):
        ((who, comparison),) = run.origins.compared([one])
        assert who == PEOPLE
        assert comparison.rpartition("/")[0] == both[0][1].rpartition("/")[0]


def test_a_chain_counts_what_two_of_its_cells_read_once(tmp_path: Path):
    ledgers = (
        Ledger(
            learned={"train": {"a", "b"}}, compared={PEOPLE: {"a/0-1", "b/0-1"}, MODEL: {"c/0-1"}},
        ),
        Ledger(
            learned={"train": {"b", "d"}, "made": {"a/0-1"}}, compared={PEOPLE: {"b/0-1", "b/0-2"}},
        ),
    )  # fmt: skip
    ledgers[1].cost.ai_comparisons = 5
    chain = [PlannedCell("first", 0), PlannedCell("second", 0)]
    for one, ledger in zip(chain, ledgers, strict=True):
        one.folder(tmp_path).mkdir(parents=True)
        (one.folder(tmp_path) / layout.USED).write_text(json.dumps(ledger.used()))
    own = [Cost(**ledger.public()) for ledger in ledgers]
    assert [(one.prompts, one.comparisons, one.ai_comparisons) for one in own] == [(2, 2, 1), (3, 2, 5)]
    whole = _sum(own, _read_twice(tmp_path, chain))
    assert (whole.prompts, whole.comparisons, whole.ai_comparisons) == (3, 3, 6)
    (chain[0].folder(tmp_path) / layout.USED).unlink()
    assert _sum(own, _read_twice(tmp_path, chain)).comparisons is None

"""A training that is killed anywhere and called again ends bit for bit as one that was left alone."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from alignbench import heartbeat, layout
from alignbench.api.config import Budget
from alignbench.api.method import ScoringGroup
from alignbench.errors import PluginError
from alignbench.models import load_base
from alignbench.recipe import schema
from alignbench.rows import Demonstration, Pair
from alignbench.training import checkpoint
from alignbench.training.checkpoint import Checkpoints
from alignbench.training.trainer import Trainer

from .conftest import Table, make_pairs

STEPS = 14


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch):
    """Checkpoints as often as a test asks for them, however long they take."""
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nothing here is about power


class Killed(BaseException):
    """What kill -9 is to a process, for a training inside one."""


class Session:
    """Trains a small model, a head, and an adapter moved by hand, with dropout on, as a method would."""

    def __init__(self, folder: Path, model: Path, **training):
        self.folder, self.model, self.training = folder, model, training
        self.points: list[tuple[int, dict]] = []

    def train(self, *, die_at: int | None = None, every: float = 0.0, view=Pair, budget=None, draws=False):
        """One attempt; returns all that it leaves behind. It dies before step `die_at`."""
        base = load_base(
            schema.Model(id=str(self.model), adapter=schema.Adapter(rank=4, alpha=8, dropout=0.2))
        )
        policy, shadow = base.add_adapter("policy", seed=1), base.add_adapter("shadow", seed=2)
        torch.manual_seed(3)
        head = torch.nn.Linear(64, 1)
        state = {"rounds": [], "shadow": torch.zeros(3), "nan": math.nan}
        rows, steps = Table(make_pairs(40), view), 0

        def on_policy(step: int) -> list:
            # All that a method of this kind may do: draw, keep numbers, move weights, and end the training.
            if die_at == step:
                raise Killed
            if step == STEPS - 1:
                return []
            state["rounds"].append((step, random.random(), float(np.random.rand()), torch.rand(()).item()))
            state["shadow"] += torch.rand(3)
            with torch.no_grad():
                for mine, other in zip(shadow.parameters(), policy.parameters(), strict=True):
                    mine.lerp_(other, 0.1)
            return rows.rows[step * 2 : step * 2 + 2]

        def sequences(batch):
            items = [row.sequences()[0] for row in batch]
            return {"all": items, "values": ScoringGroup(items, head=head)}

        def loss(scored, batch):
            nonlocal steps
            if die_at is not None and not draws and steps == die_at:
                raise Killed
            steps += 1
            nll = -scored["all"].sums()
            error = (scored["values"].values ** 2).sum(1)
            return [nll, error], {"nll": nll, "error": error, "one": 1.0}

        def restore(account: list) -> None:
            self.points[:] = [(step, found) for step, found in account]

        checkpoints = Checkpoints(
            self.folder, "key", every=every, account=lambda: list(self.points), restore=restore
        )
        self.points.clear()
        record = Trainer(
            policy,
            on_policy if draws else rows,
            sequences,
            loss,
            learning_rate=0.01,
            training=schema.Training(batch=3, micro_batch=2, threads=1, **self.training),
            budget=budget or Budget(steps=STEPS),
            seed=5,
            modules={"head": head},
            state=state,
            log=lambda step, numbers: self.points.append(
                (step, {name: value for name, value in numbers.items() if name != "seconds"})
            ),
            checkpoints=checkpoints,
            moving=[shadow],
        ).run()
        weights = [t.clone() for t in [*policy.parameters(), *shadow.parameters(), *head.parameters()]]
        return {
            "weights": weights,
            "state": {**state, "shadow": state["shadow"].tolist(), "nan": str(state["nan"])},
            "points": [(step, dict(found)) for step, found in self.points],
            "record": (record.steps, record.rows, record.work),
            "random": (random.random(), np.random.rand(), torch.rand(()).item()),
            "steps": steps,
        }


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one["weights"], other["weights"], strict=True)) and all(
        one[part] == other[part] for part in ("state", "points", "record", "random")
    )


@pytest.mark.parametrize("draws", [False, True], ids=["rows", "on-policy"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_killed_at_any_step_and_called_again_it_ends_bit_for_bit_the_same(tmp_path, folder, draws, optimizer):
    whole = Session(tmp_path / "whole", folder, optimizer=optimizer).train(draws=draws)
    assert same(whole, Session(tmp_path / "again", folder, optimizer=optimizer).train(draws=draws)), "void"
    for die_at in (0, 1, 2, 7, 12) if optimizer == "adamw" else (7,):
        session = Session(tmp_path / str(die_at), folder, optimizer=optimizer)
        with pytest.raises(Killed):
            session.train(die_at=die_at, draws=draws)
        assert same(session.train(draws=draws), whole), f"killed before step {die_at}"


@pytest.mark.parametrize("budget", [Budget(epochs=1.3), Budget(rows=31), Budget(tokens=400)], ids=str)
def test_every_budget_goes_on_where_it_was(tmp_path, folder, budget):
    whole = Session(tmp_path / "whole", folder).train(budget=budget)
    session = Session(tmp_path / "killed", folder)
    for die_at in (8, 3):
        with pytest.raises(Killed):
            session.train(die_at=die_at, budget=budget)
    assert same(session.train(budget=budget), whole)


def test_a_training_that_is_over_takes_no_step_more(tmp_path, folder):
    session = Session(tmp_path, folder)
    whole = session.train()
    again = session.train()
    assert again["steps"] == 0
    assert same(again, whole)


def test_a_kill_between_the_last_step_and_its_end_takes_no_step_more(tmp_path, folder, monkeypatch):
    session = Session(tmp_path, folder)
    whole = Session(tmp_path / "whole", folder).train()
    save = Checkpoints.save

    def killed_at_the_end(self, step, value):
        if value["over"]:
            raise Killed
        save(self, step, value)

    monkeypatch.setattr(Checkpoints, "save", killed_at_the_end)
    with pytest.raises(Killed):
        session.train()
    monkeypatch.undo()
    again = session.train()
    assert again["steps"] == 0
    assert same(again, whole)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "no seal", "empty"])
def test_a_torn_last_checkpoint_is_named_and_the_one_before_is_used(tmp_path, folder, damage, caplog):
    session = Session(tmp_path, folder)
    whole = Session(tmp_path / "whole", folder).train()
    with pytest.raises(Killed):
        session.train(die_at=14)
    *_, before, last = sorted(path for path in tmp_path.iterdir() if path.name.isdecimal())
    tensors = last / layout.CHECKPOINT_TENSORS
    if damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-5] ^= 1
        tensors.write_bytes(data)
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "delete":
        tensors.unlink()
    else:
        for path in last.iterdir():
            if damage == "empty" or path.name == "COMMIT":
                path.unlink()
    assert before.name < last.name
    assert same(session.train(), whole)
    assert [str(last) in record.message for record in caplog.records] == [True]


def test_a_checkpoint_of_another_training_is_not_used(tmp_path, folder):
    session = Session(tmp_path, folder)
    with pytest.raises(Killed):
        session.train(die_at=10)
    other = Checkpoints(tmp_path, "another key")
    assert other.last() is None


def test_asked_to_stop_it_finishes_the_step_keeps_it_and_stops(tmp_path, folder, monkeypatch):
    whole = Session(tmp_path / "whole", folder).train()
    session = Session(tmp_path / "stopped", folder)
    scored = []
    forward = heartbeat.send

    def asked_in_the_middle(*_):
        if heartbeat._trainings:  # not while the model is loaded and tried
            scored.append(1)
            if len(scored) == 6:
                heartbeat.ask_to_stop()

    monkeypatch.setattr(heartbeat, "_receiver", None)
    monkeypatch.setattr(heartbeat, "send", asked_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        session.train(every=1e9)
    monkeypatch.setattr(heartbeat, "send", forward)
    assert [path.name for path in session.folder.iterdir()], "the step is kept"
    again = session.train(every=1e9)
    assert again["steps"] < whole["steps"]
    assert same(again, whole)


def test_where_nothing_trains_a_wish_to_stop_is_an_interrupt_at_once():
    with pytest.raises(KeyboardInterrupt):
        heartbeat.ask_to_stop()
    with heartbeat.training():
        heartbeat.ask_to_stop()
        with pytest.raises(KeyboardInterrupt):
            heartbeat.ask_to_stop()
    with pytest.raises(KeyboardInterrupt):
        heartbeat.stop_if_asked()
    assert not heartbeat.asked_to_stop()


def test_any_nested_value_comes_back_as_it_was(tmp_path):
    value = {
        "tensors": [torch.arange(3), torch.rand(2, 2).half(), torch.tensor(True), torch.zeros(0)],
        "array": np.arange(4, dtype=np.uint32),
        "numbers": [1, 2.5, True, None, "text", -math.inf],
        "tuple": (1, (2, [3])),
        7: {"$": "a mark"},
    }
    checkpoint.write(tmp_path, value)
    found = checkpoint.read(tmp_path)
    for one, other in zip(value.pop("tensors"), found.pop("tensors"), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert np.array_equal(value.pop("array"), found.pop("array"))
    assert found == value


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(PluginError, match=r"a set cannot be kept in a checkpoint \(at state/ids\)"):
        checkpoint.write(tmp_path, {"state": {"ids": {1}}})


def test_it_keeps_two_and_writes_them_at_its_pace(tmp_path, folder, monkeypatch):
    session = Session(tmp_path, folder)
    session.train()
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) == 2
    slow = Session(tmp_path / "slow", folder)
    slow.train(every=1e9)
    assert len([path for path in slow.folder.iterdir() if path.name.isdecimal()]) == 1, "only its end"


def test_demonstrations_resume_too(tmp_path, folder):
    whole = Session(tmp_path / "whole", folder).train(view=Demonstration)
    session = Session(tmp_path / "killed", folder)
    with pytest.raises(Killed):
        session.train(die_at=9, view=Demonstration)
    assert same(session.train(view=Demonstration), whole)

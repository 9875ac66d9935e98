"""Kill -9 anywhere in a real cell, then the same command: what is left is the same to the last bit."""

from __future__ import annotations

import pytest

from alignbench.training import checkpoint, trainer

from .conftest import LIKE_ANOTHER, METHODS
from .lab import Lab, random_kills

SHORT = 2
"""Kill points of each method in the short version."""


@pytest.mark.parametrize("label", METHODS)
def test_a_cell_killed_at_its_nth_file_mutation_ends_as_if_it_had_not_been(
    lab: Lab, label: str, long: bool, record_property
):
    if not long and label in LIKE_ANOTHER:
        pytest.skip("in the long version: make faults")
    points = lab.points(label, None if long else SHORT)
    wrong = [found for at in points if (found := lab.wrong(label, [{"at": at}]))]
    record_property("kill points", len(points))
    print(f"{label}: {len(points)} of {lab.reference_of(label)[1]} kill points, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("label", METHODS)
def test_a_cell_killed_six_times_in_a_row_at_any_moment_ends_as_if_it_had_not_been(
    lab: Lab, label: str, long: bool
):
    if not long and label not in ("dpo", "rlhf"):
        pytest.skip("in the long version: make faults")
    for seed in range(5 if long else 1):
        assert not (found := lab.wrong(label, random_kills(seed, 6, 2.0))), found


# --- bugs that the harness must see -------------------------------------------------------------------------


@pytest.fixture
def last(lab: Lab) -> list[int]:
    """Mutations at which a cell has finished its training, or stands in its middle."""
    return lab.points("dpo", 9)[3:]


def test_a_step_too_many_is_seen(lab: Lab, last: list[int], monkeypatch: pytest.MonkeyPatch):
    lab.reference_of("dpo")
    restore = trainer.Trainer.restore

    def bug(self, kept):
        restore(self, kept)
        self.over = False
        self.steps.begin(self.number - 1)

    monkeypatch.setattr(trainer.Trainer, "restore", bug)
    assert any(lab.wrong("dpo", [{"at": at}]) for at in last)


def test_random_numbers_that_are_not_restored_are_seen(
    lab: Lab, last: list[int], monkeypatch: pytest.MonkeyPatch
):
    lab.reference_of("dpo")
    monkeypatch.setattr(trainer, "set_random_state", lambda kept: None)
    assert any(lab.wrong("dpo", [{"at": at}]) for at in last)


def test_a_seal_that_is_written_first_is_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    _, mutations, _ = lab.reference_of("dpo")
    write = checkpoint.write

    def bug(folder, value):
        folder.mkdir(parents=True)
        checkpoint.store.commit(folder, key=bug.key, producer="bug")
        write(folder, value)

    save = checkpoint.Checkpoints.save

    def remember(self, step, value):
        bug.key = self.key
        save(self, step, value)

    monkeypatch.setattr(checkpoint, "write", bug)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", remember)

    def seen(at: int) -> bool:
        try:
            return bool(lab.wrong("dpo", [{"at": at}]))
        except AssertionError:  # the cell did not even end with a seal
            return True

    assert any(seen(at) for at in range(mutations // 3, mutations // 3 + 14))

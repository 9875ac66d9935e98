"""What a label's row says of cells that ran on another device, or with other libraries, than most of the run."""

from __future__ import annotations

from typing import Any

from alignbench.engine.cells import PlannedCell
from alignbench.engine.collect import _elsewhere


def record(device: str, torch: str = "2.13.0") -> dict[str, Any]:
    return {"device": device, "versions": {"torch": torch}}


BASE, SFT = ([PlannedCell(label, seed) for seed in range(3)] for label in ("base", "sft"))
USUAL = dict.fromkeys([*BASE, *SFT], record("NVIDIA H200"))


def test_where_all_cells_ran_on_one_model_of_device_nothing_is_said():
    assert _elsewhere(SFT, USUAL) == []


def test_a_label_of_which_a_cell_ran_on_another_device_or_with_other_libraries_says_so_and_no_other():
    mixed = {**USUAL, SFT[1]: record("NVIDIA L4"), SFT[2]: record("NVIDIA L4", "2.12.0")}
    found = [(one.what, one.shared, one.own) for one in _elsewhere(SFT, mixed)]
    assert found == [("device", "NVIDIA H200", "NVIDIA L4"), ("libraries", "torch 2.13.0", "torch 2.12.0")]
    assert _elsewhere(BASE, mixed) == []


def test_a_cell_that_did_not_finish_is_no_departure():
    assert _elsewhere(SFT, {cell: USUAL[cell] for cell in [*BASE, SFT[0]]}) == []

"""A disk that is full, broken or gone ends a cell by name; what was there stays, and is gone on from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from alignbench.engine import resources
from alignbench.engine.cells import cells_of
from alignbench.errors import StorageError
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.training import checkpoint

from .injection import broken_disk, disk_full
from .lab import STORAGE, SURVIVED, Lab

SHORT = 3


@pytest.mark.parametrize("fault", [disk_full, broken_disk])
def test_a_disk_that_fails_at_the_nth_operation_is_named_and_the_cell_goes_on_once_it_works_again(
    lab: Lab, fault, long: bool
):
    points = lab.points("dpo", 40 if long else SHORT)
    wrong = [found for at in points if (found := lab.wrong("dpo", [{"at": at, "act": fault}]))]
    assert not wrong, "\n".join(wrong)


def test_no_file_may_grow_whoever_writes_it_and_the_cell_goes_on_once_it_may(lab: Lab, long: bool):
    """Rust and C++ write without Python's knowledge; the kernel's limit stops them too."""
    case = lab.case()
    assert lab.attempt(case, "dpo")[0] == SURVIVED
    sizes = sorted({path.stat().st_size for path in case.rglob("*.safetensors")} | {600, 3000})
    ended = []
    for size in sizes if long else sizes[:3]:
        fresh = lab.case()
        ended.append(lab.attempt(fresh, "dpo", limit=size - 1)[0])
        assert not (found := lab.wrong("dpo", [{"limit": size - 1}])), found
    assert STORAGE in ended
    assert set(ended) <= {STORAGE, SURVIVED}


def test_a_run_folder_that_vanishes_is_named(lab: Lab):
    case = lab.case()
    middle = lab.points("dpo", 3)[1]
    code, _ = lab.attempt(case, "dpo", at=middle, act=lambda: shutil.rmtree(case / "run" / "cells"))
    assert code in (STORAGE, SURVIVED), (case / "log.txt").read_text()[-2000:]
    assert not lab.wrong("dpo", [])


def test_a_checkpoint_that_does_not_fit_leaves_the_ones_before_it(tmp_path: Path, monkeypatch):
    import torch

    kept = checkpoint.Checkpoints(tmp_path, "key")
    kept.save(1, {"weights": torch.zeros(10)})
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: disk_full())
    with pytest.raises(StorageError, match=r"the disk is full \([\d,]+ bytes needed, [\d,]+ bytes free\)"):
        kept.save(2, {"weights": torch.zeros(10)})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert kept.last()["weights"].tolist() == [0] * 10


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=str(tmp_path)):
        checkpoint.Checkpoints(tmp_path / "kept", "key").save(1, {})


def test_too_little_room_is_refused_before_anything_runs(tmp_path: Path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        '{"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336}'
    )
    recipe = Recipe.model_validate(
        {
            "model": {"id": "model"},
            "data": {"train": "sandbox"},
            "methods": {"tried": {"method": "dpo", "start": "base"}},
        }
    )
    given = resolve(recipe)
    cells = cells_of(given)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**40))
    resources.check_disk(given, cells, tmp_path / "run", tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(
        StorageError, match=r"too little disk space .*bytes needed at least, 1,000,000,000 bytes free"
    ):
        resources.check_disk(given, cells, tmp_path / "run", tmp_path, 1)

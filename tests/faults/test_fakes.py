"""A run of fake cells, one after the other and with a shared artefact, killed at every single file mutation."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from alignbench import store
from alignbench.layout import CHECKPOINTS
from alignbench.training import checkpoint
from alignbench.worker.tasks.cell import GROWING, clear

from .injection import Faults, killed

STEPS = 4
CELLS = {"base": (), "first": ("base",), "second": ("first",), "other": ("base",)}


def run(root: Path) -> None:
    """What the engine does, with a training that is a sum of random numbers."""
    contents: dict[str, str] = {}
    for label, parents in CELLS.items():
        folder = root / "cells" / label
        key = store.digest([label, [contents[parent] for parent in parents]])
        if (sealed := store.manifest(folder, key=key)) is None:
            cell(root, folder, key)
            sealed = store.manifest(folder, key=key)
        contents[label] = sealed["content"]
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        store.write_json(folder / "status.json", {"status": "done"})
    store.write_json(root / "results.json", contents)


def cell(root: Path, folder: Path, key: str) -> None:
    clear(folder)
    shared = store.Store(root / "home").make(store.digest("labels"), label, producer="fake")
    kept = checkpoint.Checkpoints(folder / CHECKPOINTS / "0", key, every=0.0)
    draw, total, begin = random.Random(key), torch.zeros(3), 0
    if (last := kept.last()) is not None:
        total, begin = last["total"], last["step"]
        draw.setstate(last["random"])
    for step in range(begin, STEPS):
        total = total + torch.tensor([draw.random() for _ in range(3)])
        kept.save(step + 1, {"step": step + 1, "total": total, "random": draw.getstate()})
    text = [*total.tolist(), (shared / "labels.txt").read_text()]
    (folder / "policy.json").write_text(json.dumps(text))
    store.commit(folder, key=key, producer="fake", leave_out=GROWING)


def label(folder: Path) -> None:
    (folder / "labels.txt").write_text("one is better")


def left(root: Path) -> dict[str, bytes]:
    """Every file but locks, and what a killed process was about to rename: nobody reads that again."""
    found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.suffix not in (".lock", ".used")
        and not path.name.startswith(".")
        and not name.startswith("home/tmp/")
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # kill -9 loses nothing that was written


def wrong(tmp_path: Path, faults: Faults, every: int = 1) -> tuple[list[int], int]:
    """Kill at each mutation and run again; return where another result came of it, and how often it died."""
    run(tmp_path / "whole")
    whole, found, deaths = left(tmp_path / "whole"), [], 0
    for at in range(1, 2000, every):
        root = tmp_path / "killed"
        if not killed(lambda: run(root), faults, root, at):  # noqa: B023
            break
        deaths += 1
        if killed(lambda: run(root), faults, root, 10**9) or left(root) != whole:  # noqa: B023
            found.append(at)
        shutil.rmtree(root)
    return found, deaths


def test_killed_at_every_mutation_a_run_of_four_cells_ends_the_same(
    tmp_path: Path, faults: Faults, long: bool
):
    found, deaths = wrong(tmp_path, faults, 1 if long else 16)
    print(f"{deaths} kill points, {len(found)} wrong")
    assert found == []
    assert deaths > (150 if long else 10)


def test_a_random_state_that_is_lost_is_seen(tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random.Random, "setstate", lambda self, state: None)
    found, _ = wrong(tmp_path, faults, 40)
    assert found

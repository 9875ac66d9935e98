"""Which cell starts when: the longest chains first, no place idle, no device twice, and little time for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from alignbench import layout, store
from alignbench.engine import plan, resources
from alignbench.engine.experiment import Experiment
from alignbench.engine.plan import Cell
from alignbench.engine.scheduler import Scheduler
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.worker.messages import Event, Finished, Task

from .conftest import RECIPE


class Clockwork:
    """An executor whose cells take a time of their own, on a clock that jumps from end to end."""

    def __init__(self, seconds: Callable[[str], float], fails: tuple[str, ...] = ()):
        self.seconds, self.fails = seconds, fails
        self.now, self.running = 0.0, dict[str, tuple[float, Task]]()
        self.started, self.most = list[str](), 0

    def start(self, name: str, task: Task, *, heartbeat: float = 0.0) -> None:
        self.started.append(name)
        self.running[name] = (self.now + self.seconds(name), task)
        self.most = max(self.most, len(self.running))

    def wait(self, on_event: Callable[[str, Event], None]) -> dict[str, Finished]:
        name = min(self.running, key=lambda one: self.running[one][0])
        self.now, task = self.running.pop(name)
        if name.partition("/")[0] in self.fails:
            return {name: Finished("failed", "no such luck")}
        folder = Path(task.what["folder"])
        store.write_json(folder / layout.CELL, {"name": name})
        store.commit(folder, key=task.what["key"], producer=name)
        return {name: Finished()}


def scheduler(folder: Path, recipe: Recipe, executor: Clockwork, workers: int) -> Scheduler:
    resolved = resolve(recipe)
    data = folder / layout.DATA
    data.mkdir(parents=True)
    store.write_json(data / layout.RECORD, {})
    store.commit(data, key="rows", producer="rows")
    experiment = Experiment(resolved, folder, folder, {}, {"torch": "2.13.0"}, (), threads=1)
    return Scheduler(experiment, executor, plan.cells(resolved), workers)  # pyright: ignore[reportArgumentType]


def recipe(methods: dict[str, dict[str, object]], seeds: int = 1) -> Recipe:
    said = {"model": {"id": "sandbox"}, "data": {"train": "sandbox"}, "seeds": list(range(seeds))}
    return Recipe.model_validate({**said, "methods": methods})


CHAIN = {
    "alone": {"method": "sft"},
    "apart": {"method": "sft", "learning_rate": 1e-3},
    "first": {"method": "sft", "learning_rate": 2e-3},
    "second": {"method": "dpo", "start": "first"},
    "third": {"method": "dpo", "start": "second", "beta": 0.2},
}


def test_side_by_side_the_longest_chain_starts_first_and_the_run_ends_with_it(tmp_path: Path):
    executor = Clockwork(lambda name: 0.0 if name.startswith("base") else 1.0)
    scheduler(tmp_path, recipe(CHAIN), executor, 2).run()
    assert executor.started[0] == "first/seed-0"
    assert executor.now == 3.0  # in the order of the plan the chain would begin at 1 and end at 4


def test_one_at_a_time_whole_seeds_end_first(tmp_path: Path):
    executor = Clockwork(lambda name: 1.0)
    scheduler(tmp_path, recipe(CHAIN, seeds=3), executor, 1).run()
    assert [name.partition("/")[2] for name in executor.started] == [
        f"seed-{n}" for n in range(3) for _ in range(6)
    ]


def test_what_needs_a_failed_cell_is_blocked_and_everything_else_runs(tmp_path: Path):
    executor = Clockwork(lambda name: 1.0, fails=("first",))
    found = scheduler(tmp_path, recipe(CHAIN), executor, 4).run()
    said = {str(cell): (how.status, how.reason) for cell, how in found.items()}
    assert said["second/seed-0"] == ("blocked", "its start 'first' is failed")
    assert said["third/seed-0"] == ("blocked", "its start 'second' is blocked")
    assert said["alone/seed-0"] == said["apart/seed-0"] == ("done", "")


def test_no_place_is_idle_while_a_cell_could_run(tmp_path: Path):
    methods = {f"sft-{n}": {"method": "sft", "learning_rate": 1e-3 * (n + 1)} for n in range(6)}
    executor = Clockwork(lambda name: 1.0 + len(name) % 3)
    made = scheduler(tmp_path, recipe(methods, seeds=4), executor, 4)
    seen = []

    def wait(on_event: Callable[[str, Event], None]) -> dict[str, Finished]:
        seen.append((len(executor.running), len(made.startable)))
        return Clockwork.wait(executor, on_event)

    executor.wait = wait  # pyright: ignore[reportAttributeAccessIssue]
    made.run()
    assert len(executor.started) == 28
    assert executor.most == 4
    assert all(running == 4 for running, startable in seen if startable)


def test_fifty_labels_at_ten_seeds_ask_for_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    methods = {"sft": {"method": "sft"}} | {
        f"dpo-{n}": {"method": "dpo", "start": "sft", "beta": 0.01 * (n + 1)} for n in range(49)
    }
    executor = Clockwork(lambda name: 1.0)
    made = scheduler(tmp_path, recipe(methods, seeds=10), executor, 8)
    keyed = []
    own = made._key
    monkeypatch.setattr(made, "_key", lambda cell, parents: keyed.append(cell) or own(cell, parents))
    found = made.run()
    assert {how.status for how in found.values()} == {"done"}
    assert len(found) == len(keyed) == 510
    assert executor.now == 64.0  # 510 cells, eight at a time


def test_a_run_that_is_continued_starts_only_what_is_missing(tmp_path: Path):
    first = Clockwork(lambda name: 1.0, fails=("first",))
    scheduler(tmp_path, recipe(CHAIN, seeds=2), first, 2).run()
    again = Clockwork(lambda name: 1.0)
    resolved = resolve(recipe(CHAIN, seeds=2))
    experiment = Experiment(resolved, tmp_path, tmp_path, {}, {"torch": "2.13.0"}, (), threads=1)
    found = Scheduler(experiment, again, plan.cells(resolved), 2).run()  # pyright: ignore[reportArgumentType]
    assert {how.status for how in found.values()} == {"done"}
    assert sorted(again.started) == sorted(
        f"{label}/seed-{n}" for label in ("first", "second", "third") for n in range(2)
    )


def test_a_cell_ranks_by_the_chain_that_waits_for_it():
    cells = [Cell("base", 0), Cell("a", 0), Cell("b", 0, ("a",)), Cell("c", 0, ("b",)), Cell("d", 0)]
    parents = plan.parents(cells)
    assert parents[cells[3]] == [cells[2]]
    assert [-plan.ranks(parents, 2)[cell][0] for cell in cells] == [0, 2, 1, 0, 0]
    assert sorted(cells, key=plan.ranks(parents, 1).__getitem__) == cells


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ("0,1,2,3", ("0", "1", "2", "3")),
        ("2", ("2",)),
        ("", ()),
        ("-1", ()),
        ("1,-1,0", ("1",)),
        (None, ("0", "1", "10")),
    ],
)
def test_devices_are_those_that_cuda_would_see(
    chosen: str | None, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    nodes = [
        Path(f"/dev/{name}") for name in ("nvidia10", "nvidia0", "nvidia1", "nvidia-uvm", "nvidiactl", "null")
    ]
    monkeypatch.setattr(Path, "exists", lambda path: path in nodes)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(nodes))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert resources.devices() == found


def test_jobs_are_counted_on_each_device(monkeypatch: pytest.MonkeyPatch):
    given = recipe({"sft": {}})
    monkeypatch.setattr(resources, "devices", lambda: ("0", "1", "2"))
    assert resources.max_workers(given) == 3
    assert resources.max_workers(given, 2) == 6
    monkeypatch.setattr(resources, "devices", lambda: ())
    assert resources.max_workers(given, 2) == 2


WHERE = '''
import json
import os
import time

from alignbench import Method, Run


class Where(Method):
    """Writes down which device it sees, and when. Source: this test."""

    api = 2

    def align(self, run: Run):
        began = time.time()
        time.sleep(1.0)
        said = {"device": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.time()}
        (run.folder / "where.json").write_text(json.dumps(said))
        return run.start
'''


@pytest.mark.slow
def test_of_four_devices_each_has_one_cell_at_a_time_and_all_are_used(tmp_path: Path):
    (tmp_path / "where.py").write_text(WHERE)
    info = tmp_path / "alignbench_where-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alignbench-where\nVersion: 1.0\n")
    (info / "RECORD").write_text("where.py,,\n")
    (info / "entry_points.txt").write_text("[alignbench.methods]\nwhere = where:Where\n")
    labels = "".join(f"  where-{n}: {{method: where}}\n" for n in range(5))
    (tmp_path / "recipe.yaml").write_text(RECIPE + labels)
    script = (
        "from alignbench.engine import resources\n"
        "resources.devices = lambda: ('0', '1', '2', '3')\n"
        "from alignbench.cli import app\n"
        "app(['run', 'recipe.yaml', '--out', 'run', '-q'])\n"
    )
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path), "ALIGNBENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [json.loads(file.read_text()) for file in (tmp_path / "run/cells").rglob("where.json")]
    assert len(seen) == 5
    assert {one["device"] for one in seen} == {"0", "1", "2", "3"}
    for device in "0123":
        own = sorted((one["began"], one["ended"]) for one in seen if one["device"] == device)
        assert all(ended <= began for (_, ended), (began, _) in pairwise(own))
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    assert {cell["device"] for cell in cells} == {"cpu"}

"""Which cell starts when: the longest chains first, no place idle, no device twice, and little time for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest

from alignbench import layout, store
from alignbench.api.launcher import Event, Finished, Launcher, LauncherConfig, Needs, Task
from alignbench.engine import resources
from alignbench.engine.cells import PlannedCell, cells_of, parents_of, ranks
from alignbench.engine.experiment import Experiment
from alignbench.engine.scheduler import Scheduler
from alignbench.errors import AlignbenchError, RecipeError
from alignbench.launchers import machine
from alignbench.launchers.local import Child, Local
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe

from .conftest import RECIPE


class Clockwork(Launcher):
    """A launcher whose cells take a time of their own, on a clock that jumps from end to end."""

    api = 2

    def __init__(self, seconds: Callable[[str], float], jobs: int = 1, fails: tuple[str, ...] = ()):
        super().__init__(LauncherConfig(jobs=jobs))
        self.seconds, self.fails = seconds, fails
        self.now, self.running = 0.0, dict[str, tuple[float, Task]]()
        self.started, self.most = list[str](), 0

    def __exit__(self, *_: object) -> None:
        self.running.clear()

    def capacity(self, needs: Needs) -> int:
        return self.config.jobs

    def cost(self, name: str) -> dict[str, Any]:
        return {}

    def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
        self.started.append(name)
        self.running[name] = (self.now + self.seconds(name), task)
        self.most = max(self.most, len(self.running))

    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        name = min(self.running, key=lambda one: self.running[one][0])
        self.now, task = self.running.pop(name)
        if name.partition("/")[0] in self.fails:
            return {name: Finished("failed", "no such luck")}
        folder = Path(task.what["folder"])
        store.write_json(folder / layout.CELL, {"name": name, **self.cost(name)})
        store.commit(folder, key=task.what["key"], producer=name)
        return {name: Finished()}


def scheduler(folder: Path, recipe: Recipe, launcher: Clockwork, *, measure: bool = False) -> Scheduler:
    resolved = resolve(recipe)
    data = folder / layout.DATA
    if not data.exists():
        data.mkdir(parents=True)
        store.write_json(data / layout.RECORD, {})
        store.commit(data, key="rows", producer="rows")
    experiment = Experiment(resolved, folder, folder, {}, {"torch": "2.13.0"}, (), threads=1)
    return Scheduler(experiment, launcher, cells_of(resolved), measure=measure)


def recipe(methods: dict[str, dict[str, object]], seeds: int = 1) -> Recipe:
    fields = {"model": {"id": "sandbox"}, "data": {"train": "sandbox"}, "seeds": list(range(seeds))}
    return Recipe.model_validate({**fields, "methods": methods})


CHAIN = {
    "alone": {"method": "sft"},
    "apart": {"method": "sft", "learning_rate": 1e-3},
    "first": {"method": "sft", "learning_rate": 2e-3},
    "second": {"method": "dpo", "start": "first"},
    "third": {"method": "dpo", "start": "second", "beta": 0.2},
}


def test_side_by_side_the_longest_chain_starts_first_and_the_run_ends_with_it(tmp_path: Path):
    launcher = Clockwork(lambda name: 0.0 if name.startswith("base") else 1.0, 2)
    scheduler(tmp_path, recipe(CHAIN), launcher).run()
    assert launcher.started[0] == "first/seed-0"
    assert launcher.now == 3.0  # in the order of the plan the chain would begin at 1 and end at 4


class Cluster(Clockwork):
    """A launcher that knows its room only inside its context; from `late` on it has as much as it was given."""

    late, inside = 0.0, False

    def __enter__(self) -> Self:
        self.inside = True
        return self

    def capacity(self, needs: Needs) -> int:
        return super().capacity(needs) if self.inside and self.now >= self.late else 1


def test_a_launcher_that_knows_its_room_inside_its_context_alone_starts_the_longest_chain_first(
    tmp_path: Path,
):
    launcher = Cluster(lambda name: 0.0 if name.startswith("base") else 1.0, 2)
    made = scheduler(tmp_path, recipe(CHAIN), launcher)
    with launcher:
        made.run()
    assert launcher.now == 3.0


def test_once_a_node_joins_the_longest_chain_starts_first(tmp_path: Path):
    launcher = Cluster(lambda name: 1.0, 2)
    launcher.late = 1.0  # the end of base, the first of the plan
    made = scheduler(tmp_path, recipe(CHAIN), launcher)
    with launcher:
        made.run()
    assert launcher.started[:2] == ["base/seed-0", "first/seed-0"]
    assert launcher.now == 4.0


def test_one_at_a_time_whole_seeds_end_first(tmp_path: Path):
    launcher = Clockwork(lambda name: 1.0)
    scheduler(tmp_path, recipe(CHAIN, seeds=3), launcher).run()
    assert [name.partition("/")[2] for name in launcher.started] == [
        f"seed-{n}" for n in range(3) for _ in range(6)
    ]


def test_what_needs_a_failed_cell_is_blocked_and_everything_else_runs(tmp_path: Path):
    launcher = Clockwork(lambda name: 1.0, 4, ("first",))
    found = scheduler(tmp_path, recipe(CHAIN), launcher).run()
    result = {str(cell): (how.status, how.reason) for cell, how in found.items()}
    assert result["second/seed-0"] == ("blocked", "its start 'first' is failed")
    assert result["third/seed-0"] == ("blocked", "its start 'second' is blocked")
    assert result["alone/seed-0"] == result["apart/seed-0"] == ("done", "")


def test_no_place_is_idle_while_a_cell_could_run(tmp_path: Path):
    methods = {f"sft-{n}": {"method": "sft", "learning_rate": 1e-3 * (n + 1)} for n in range(6)}
    launcher = Clockwork(lambda name: 1.0 + len(name) % 3, 4)
    made = scheduler(tmp_path, recipe(methods, seeds=4), launcher)
    seen = []

    def wait(on_event: Callable[[str, Event], None]) -> dict[str, Finished]:
        seen.append((len(launcher.running), len(made.startable)))
        return Clockwork.wait(launcher, on_event)

    launcher.wait = wait  # pyright: ignore[reportAttributeAccessIssue]
    made.run()
    assert len(launcher.started) == 28
    assert launcher.most == 4
    assert all(running == 4 for running, startable in seen if startable)


def measuring(launcher: Clockwork) -> list[str]:
    """The cells that tasks of their own have measured."""
    return [
        name.removeprefix("measurements/") for name in launcher.started if name.startswith("measurements/")
    ]


def test_every_finished_cell_is_measured_once_and_no_cell_waits_for_that(tmp_path: Path):
    launcher = Clockwork(lambda name: 1.0, 2, ("apart",))
    made = scheduler(tmp_path, recipe(CHAIN), launcher, measure=True)
    found = made.run()
    done = [str(cell) for cell, how in found.items() if how.status == "done"]
    assert sorted(measuring(launcher)) == sorted(made.measured) == sorted(done)
    assert len(done) == 5
    cells = [name for name in launcher.started if not name.startswith("measurements/")]
    assert cells[:3] == ["base/seed-0", "first/seed-0", "second/seed-0"] or cells[0] == "first/seed-0"
    assert launcher.started[:4] == cells[:4], "a cell that could start waited for the measuring of another"
    again = Clockwork(lambda name: 1.0, 2, ("apart",))
    continued = scheduler(tmp_path, recipe(CHAIN), again, measure=True)
    continued.run()
    assert again.started == ["apart/seed-0"]
    assert continued.measured == made.measured


def test_what_could_not_be_measured_is_known_and_tried_again(tmp_path: Path):
    launcher = Clockwork(lambda name: 1.0, 2, ("measurements",))
    made = scheduler(tmp_path, recipe({"alone": {"method": "sft"}}), launcher, measure=True)
    with pytest.raises(AlignbenchError, match=r"measurements/base/seed-0: no such luck; see .*log\.txt"):
        made.run()
    assert {how.status for how in made.statuses.values()} == {"done"}, "an error stopped what could still run"
    assert made.measured == {}
    again = Clockwork(lambda name: 1.0, 2)
    scheduler(tmp_path, recipe({"alone": {"method": "sft"}}), again, measure=True).run()
    assert (
        sorted(measuring(again))
        == ["alone/seed-0", "base/seed-0"]
        == sorted(name.removeprefix("measurements/") for name in again.started)
    )


def test_measuring_many_cells_takes_the_share_of_one_cell(tmp_path: Path):
    """Forty cells of a minute on eight places: what is measured of them in a tenth of that takes a tenth longer."""
    methods = {f"sft-{n}": {"method": "sft", "learning_rate": 1e-3 * (n + 1)} for n in range(7)}
    launcher = Clockwork(lambda name: 6.0 if name.startswith("measurements/") else 60.0, 8)
    scheduler(tmp_path, recipe(methods, seeds=5), launcher, measure=True).run()
    assert launcher.most == 8
    assert launcher.now == 40 * 66.0 / 8


def test_fifty_labels_at_ten_seeds_ask_for_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    methods = {"sft": {"method": "sft"}} | {
        f"dpo-{n}": {"method": "dpo", "start": "sft", "beta": 0.01 * (n + 1)} for n in range(49)
    }
    launcher = Clockwork(lambda name: 1.0, 8)
    made = scheduler(tmp_path, recipe(methods, seeds=10), launcher)
    keyed = []
    own = made._key
    monkeypatch.setattr(made, "_key", lambda cell, parents: keyed.append(cell) or own(cell, parents))
    found = made.run()
    assert {how.status for how in found.values()} == {"done"}
    assert len(found) == len(keyed) == 510
    assert launcher.now == 64.0  # 510 cells, eight at a time


def test_a_run_that_is_continued_starts_only_what_is_missing(tmp_path: Path):
    first = Clockwork(lambda name: 1.0, 2, ("first",))
    scheduler(tmp_path, recipe(CHAIN, seeds=2), first).run()
    again = Clockwork(lambda name: 1.0, 2)
    resolved = resolve(recipe(CHAIN, seeds=2))
    experiment = Experiment(resolved, tmp_path, tmp_path, {}, {"torch": "2.13.0"}, (), threads=1)
    found = Scheduler(experiment, again, cells_of(resolved)).run()
    assert {how.status for how in found.values()} == {"done"}
    assert sorted(again.started) == sorted(
        f"{label}/seed-{n}" for label in ("first", "second", "third") for n in range(2)
    )


def test_a_cell_whose_trial_took_longer_than_a_chain_starts_before_it(tmp_path: Path):
    methods = {name: {"method": "sft", "learning_rate": 1e-3} for name in ("one", "other", "long")}
    for start, second, third in (("one", "one-2", "one-3"), ("other", "other-2", "other-3")):
        methods[second] = {"method": "dpo", "start": start}
        methods[third] = {"method": "dpo", "start": second}

    def seconds(name: str) -> float:
        return {"base": 0.0, "long": 10.0}.get(name.partition("/")[0], 1.0)

    for label in methods:
        cost = {"seconds": seconds(label)}
        store.write_json(tmp_path / f"sweep/cells/{label}/seed-0" / layout.CELL, {"cost": cost})
    launcher = Clockwork(seconds, 2)
    scheduler(tmp_path, recipe(methods), launcher).run()
    assert launcher.now == 10.0  # counted, both chains would come first, and it would begin at 3


def test_what_a_label_took_at_one_seed_orders_the_others(tmp_path: Path):
    class Timed(Clockwork):
        def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
            super().start(name, task, needs, heartbeat=heartbeat)
            if name == "long/seed-1":
                begun.extend(self.started)

        def cost(self, name: str) -> dict[str, Any]:
            return {"cost": {"seconds": self.seconds(name)}}

    begun = list[str]()
    methods = {"quick": {"method": "sft"}, "long": {"method": "sft", "learning_rate": 1e-3}}
    launcher = Timed(lambda name: {"base": 0.0, "long": 5.0}.get(name.partition("/")[0], 1.0), 2)
    scheduler(tmp_path, recipe(methods, seeds=4), launcher).run()
    rest = [name for name in launcher.started[len(begun) :] if not name.startswith("base")]
    assert rest == ["long/seed-2", "long/seed-3", "quick/seed-2", "quick/seed-3"]
    assert launcher.now == 12.0  # both places busy to the end


def test_a_cell_ranks_by_the_chain_that_waits_for_it():
    cells = [
        PlannedCell("base", 0),
        PlannedCell("a", 0),
        PlannedCell("b", 0, ("a",)),
        PlannedCell("c", 0, ("b",)),
        PlannedCell("d", 0),
    ]
    parents = parents_of(cells)
    assert parents[cells[3]] == [cells[2]]
    assert [-ranks(parents, 2)[cell][0] for cell in cells] == [1, 3, 2, 1, 1]
    known = {"base": 2.0, "c": 10.0}  # the others take 6 each
    assert [-ranks(parents, 2, known)[cell][0] for cell in cells] == [2, 22, 16, 10, 6]
    assert sorted(cells, key=ranks(parents, 1).__getitem__) == cells


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
    assert machine.devices() == found


def test_jobs_are_counted_on_each_device():
    given = resolve(recipe({"sft": {}}))

    def workers(jobs: Any, *devices: str) -> int:
        return resources.max_workers(given, Local(LauncherConfig(jobs=jobs), devices=devices))

    assert workers("auto", "0", "1", "2") == 3
    assert workers(2, "0", "1", "2") == 6
    assert workers(2) == 2


def test_a_budget_of_time_runs_one_cell_at_a_time_and_refuses_more():
    given = resolve(recipe({"sft": {"budget": {"seconds": 60}}}))
    assert resources.max_workers(given, Local(devices=("0", "1"))) == 1
    with pytest.raises(RecipeError, match="--jobs 2: a budget in seconds means nothing"):
        resources.max_workers(given, Local(LauncherConfig(jobs=2)))


def placed(launcher: Local, *running: tuple[str | None, int]) -> Local:
    """A launcher on which tasks of this memory, in GiB, run on these devices."""
    for number, (device, memory) in enumerate(running):
        needs = Needs(memory_bytes=memory * GIB)
        launcher._children[str(number)] = Child(None, None, Path(), device, needs, 0.0)  # pyright: ignore[reportArgumentType]
    return launcher


GIB = 2**30


@pytest.mark.parametrize(
    ("running", "memory", "where"),
    [
        ((), 100, "0"),  # alone it may try
        ((("0", 0),), 100, "1"),  # the other device is free
        ((("0", 30), ("1", 10)), 20, "1"),  # beside the smaller one it fits
        ((("0", 30), ("1", 30)), 20, None),  # beside neither
        ((("0", 30), ("1", 30)), 0, "0"),  # what it takes is not known
        ((("0", 1), ("0", 1), ("1", 1), ("1", 1)), 1, None),  # no place is left
    ],
)
def test_a_cell_starts_only_where_its_memory_is_free_beside_those_that_run(
    running: tuple[tuple[str, int], ...], memory: int, where: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "free_memory", lambda device: 40 * GIB)
    launcher = placed(Local(LauncherConfig(jobs=2), devices=("0", "1")).__enter__(), *running)
    needs = Needs(memory_bytes=memory * GIB)
    assert next(launcher._places(needs), None) == where
    assert launcher.fits(needs) == (where is not None)


def test_what_other_programs_took_meanwhile_is_not_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 40 * GIB)
    launcher = placed(Local(LauncherConfig(jobs=2), devices=()).__enter__(), (None, 10))
    assert launcher.fits(Needs(memory_bytes=20 * GIB))
    monkeypatch.setattr(machine, "free_memory", lambda device: 15 * GIB)
    assert not launcher.fits(Needs(memory_bytes=20 * GIB))


def test_a_smaller_cell_takes_the_place_that_a_larger_one_does_not_fit_into(tmp_path: Path):
    """Each label's first seed tells what its other seeds take."""

    class Tight(Clockwork):
        def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
            super().start(name, task, needs, heartbeat=heartbeat)
            taken[name] = needs.memory_bytes

        def fits(self, needs: Needs) -> bool:
            return sum(taken[name] for name in self.running) + needs.memory_bytes <= 10

        def cost(self, name: str) -> dict[str, Any]:
            return {"cost": {"peak_memory_bytes": 9 if name.startswith("large") else 1}}

    taken = dict[str, int]()
    methods = {"large": {"method": "sft"}, "small": {"method": "sft", "learning_rate": 1e-3}}
    launcher = Tight(lambda name: 1.0, 3)
    found = scheduler(tmp_path, recipe(methods, seeds=4), launcher).run()
    assert {how.status for how in found.values()} == {"done"}
    assert launcher.started[:3] == ["base/seed-0", "large/seed-0", "small/seed-0"]
    assert 9 in taken.values()
    assert launcher.most == 3


def test_memory_is_that_of_the_largest_finished_cell_of_a_label_or_of_its_trials(tmp_path: Path):
    for folder, peak in (("cells/dpo/seed-0", 5), ("cells/dpo/seed-1", 7), ("sweep/cells/dpo/seed-0", 9)):
        store.write_json(tmp_path / folder / layout.CELL, {"cost": {"peak_memory_bytes": peak}})
    assert resources.memory(tmp_path, "dpo") == 9
    assert resources.memory(tmp_path, "sft") == 0


def test_seconds_are_the_mean_of_the_finished_cells_of_a_label_and_of_its_trials(tmp_path: Path):
    for folder, seconds in (
        ("cells/dpo/seed-0", 1.0),
        ("cells/dpo/seed-1", 3.0),
        ("sweep/cells/dpo/seed-0", 5.0),
    ):
        store.write_json(tmp_path / folder / layout.CELL, {"cost": {"seconds": seconds}})
    assert resources.seconds(tmp_path, "dpo") == 3.0
    assert resources.seconds(tmp_path, "sft") == 0.0


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
        record = {"device": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.time()}
        (run.folder / "where.json").write_text(json.dumps(record))
        return run.start
'''


@pytest.mark.slow
def test_of_two_devices_each_has_one_cell_at_a_time_and_both_are_used(tmp_path: Path):
    (tmp_path / "where.py").write_text(WHERE)
    info = tmp_path / "alignbench_where-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alignbench-where\nVersion: 1.0\n")
    (info / "RECORD").write_text("where.py,,\n")
    (info / "entry_points.txt").write_text("[alignbench.methods]\nwhere = where:Where\n")
    labels = "".join(f"  where-{n}: {{method: where}}\n" for n in range(3))
    (tmp_path / "recipe.yaml").write_text(RECIPE + labels)
    script = (
        "from alignbench.launchers import machine\n"
        "machine.devices = lambda: ('0', '1')\n"
        "from alignbench.cli import app\n"
        "app(['run', 'recipe.yaml', '--out', 'run', '-q'])\n"
    )
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path), "ALIGNBENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [json.loads(file.read_text()) for file in (tmp_path / "run/cells").rglob("where.json")]
    assert len(seen) == 3
    assert {one["device"] for one in seen} == {"0", "1"}
    for device in "01":
        own = sorted((one["began"], one["ended"]) for one in seen if one["device"] == device)
        assert all(ended <= began for (_, ended), (began, _) in pairwise(own))
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    assert {cell["device"] for cell in cells} == {"cpu"}

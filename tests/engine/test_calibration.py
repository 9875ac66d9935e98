"""The forecast of a run: parts of every label measured in bounded time, whatever one of them does."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from alignbench import layout
from alignbench.api.config import Budget
from alignbench.api.launcher import Finished, Needs, Task
from alignbench.api.policy import Answer
from alignbench.cli.plan import _estimate
from alignbench.commands import forecast
from alignbench.engine.cells import PlannedCell
from alignbench.errors import AlignbenchError
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded
from alignbench.worker.tasks.calibrate import _turned
from alignbench.worker.tasks.growing import OutOfTime, Series, SharedTime, limited
from alignbench.worker.tasks.parts import smaller, spread

RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 96, max_length: 96}
training: {threads: 1, batch: 16}
budget: {epochs: 1}
start: sft
methods:
  sft: {start: base}
  broken: {method: frozen, start: {adapter: ./other}}
  after-it: {method: frozen, start: broken}
evaluation: {prompts: 24, judges: [gold], metrics: [reward], sampling: {temperature: [0, 1], max_new_tokens: 8}}
"""


def recipe(folder: Path, text: str = RECIPE) -> Loaded:
    """Load a recipe, one of whose adapters has weights of another model: only loading it tells."""
    (folder / "other").mkdir()
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    (folder / "other" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"x": torch.zeros(1)}, folder / "other" / "adapter_model.safetensors")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load(folder / "recipe.yaml", [])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory):
    given = recipe(tmp_path_factory.mktemp("calibration"))
    return forecast.calibrate(given, resolve(given.recipe), seconds=60.0)


def test_every_label_and_the_evaluation_are_forecast(measured) -> None:
    assert measured.labels["sft"].failed == measured.labels["base"].failed == measured.failed == ""
    assert measured.labels["sft"].seconds > measured.labels["base"].seconds > 0
    assert measured.labels["sft"].tokens > 10 * 96
    assert measured.labels["sft"].peak_memory_bytes > 1e8
    assert measured.evaluate_seconds > 0
    assert measured.model.weights


def test_a_label_that_answers_like_another_takes_its_time_for_every_request(tmp_path: Path) -> None:
    plan = resolve(recipe(tmp_path).recipe)
    trained = {"aligned": 5, "whole": 100, "seconds": 5.0, "tokens": 10, "batch": 5, "memory": 1}
    lines = [
        {"label": "sft", **trained},
        {"label": "sft", "answered": 10, "requests": [100.0, 20.0], "seconds": 1.0, "memory": 1},
        {"label": "after-it", **trained},
        {"label": "after-it", "answers_like": "sft"},
    ]
    for label in ("sft", "after-it"):
        assert forecast._label(plan, label, 3.0, lines).seconds == pytest.approx(3 + 52.5 + 5.5 + 1.5)


def test_answers_that_another_process_measures_are_those_of_its_adapter_or_else_of_the_base(
    tmp_path: Path,
) -> None:
    plan = resolve(recipe(tmp_path).recipe)
    trained = {"aligned": 5, "whole": 100, "seconds": 5.0, "tokens": 10, "batch": 5, "memory": 1}
    asked = {"requests": [100.0], "memory": 1}
    lines = [
        {"label": "base", "answered": 16, "seconds": 4.0, "adapted": False, **asked},
        {"label": "sft", **trained},
        {"label": "sft", "answers_like": None},
    ]
    assert forecast._label(plan, "sft", 0.0, lines).seconds == pytest.approx(52.5 + 2 + 12.5)
    lines.append({"label": "after-it", "answered": 16, "seconds": 8.0, "adapted": True, **asked})
    assert forecast._label(plan, "sft", 0.0, lines).seconds == pytest.approx(52.5 + 4 + 25)


def test_what_is_done_once_is_told_from_what_a_row_takes_by_a_smaller_part(tmp_path: Path) -> None:
    plan = resolve(recipe(tmp_path).recipe)
    lines = [
        {"label": "sft", "aligned": count, "whole": 100, "seconds": 2 + 0.5 * count, "tokens": 9 * count,
         "batch": count, "memory": 1000 * count}
        for count in (5, 2)
    ] + [
        {"label": "sft", "answered": count, "requests": [100.0], "seconds": 3 + 0.25 * count, "memory": 1}
        for count in (16, 4)
    ]  # fmt: skip
    found = forecast._label(plan, "sft", 4.0, lines, once=1.0)
    assert found.seconds == pytest.approx(4 + 1 + (2 + 50) + (3 + 25))
    assert found.tokens == 900
    assert found.peak_memory_bytes == pytest.approx(1.2 * 5000), "the smaller part says nothing of memory"


def test_stand_ins_have_texts_of_their_own_at_each_temperature() -> None:
    one = Answer("prompt", "a b c d e", (1, 2, 3, 4, 5), finished=True)
    turned = [_turned(one, by) for by in range(5)]
    assert len({each.text for each in turned}) == len({each.ids for each in turned}) == 5
    assert all(sorted(each.ids) == sorted(one.ids) for each in turned)
    assert _turned(replace(one, text="", ids=()), 3).text == ""


def test_cells_and_what_measures_them_run_side_by_side():
    one = forecast.Estimate(10.0, 0.0, 0.0)
    made = forecast.Forecast({"base": one, "sft": one}, 3.0, 8.0, 4.0, 0.0)
    cells = [PlannedCell("base", 0), PlannedCell("sft", 0)]
    assert made.seconds(cells, 1) == 3 + 2 * 10 + 2 * 4 + 8
    assert made.seconds(cells, 2) == 3 + 10 + 4 + 8
    assert made.seconds([], 2) == 3


@pytest.mark.parametrize(
    ("workers", "shared", "peaks", "fits"),
    [
        (1, True, (14, 14), True),
        (2, True, (14, 14), False),
        (2, False, (14, 14), True),
        (2, True, (14, 9), True),
        (1, True, (14, None), None),
        (1, True, (25, None), False),
    ],
)
def test_cells_fit_where_the_largest_that_run_side_by_side_do(
    tmp_path, monkeypatch, workers, shared, peaks, fits
) -> None:
    """In GiB, of 24 that a machine has: its processes share it; of a CUDA device each has one of its own."""
    monkeypatch.setattr("alignbench.cli.doctor.device_memory", lambda: ("the machine", 24 << 30, shared))
    labels = {
        f"label-{n}": forecast.Estimate(1.0 if one else 0.0, 0.0, (one or 0) * 2.0**30)
        for n, one in enumerate(peaks)
    }
    made = forecast.Forecast(labels, 0.0, 0.0, 0.0, 0.0)
    found = _estimate(recipe(tmp_path), tuple(PlannedCell(label, 0) for label in labels), (), made, workers)
    assert found["fits"] is fits


def test_a_label_that_cannot_be_measured_says_why_and_spoils_no_other(measured) -> None:
    broken = measured.labels["broken"]
    assert broken.seconds == 0
    assert "other" in broken.failed
    assert measured.labels["after-it"].seconds > 0
    assert measured.labels["after-it"].failed == ""


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch):
    """A series whose parts take a second and a tenth for each row, by a clock of its own."""
    now = [0.0]
    monkeypatch.setattr("alignbench.worker.tasks.growing.busy_clock", lambda: now[0])

    def made(whole: int, least: int = 0) -> tuple[Series, list[str]]:
        def work(count: int, whole: int) -> float:
            if count < least:
                raise ValueError(f"nothing to learn from {count} rows")
            now[0] += 1 + 0.1 * count
            return 1 + 0.1 * count

        failed: list[str] = []
        return Series(whole, work, failed.append, 5), failed

    return made


def sizes(one: Series) -> list[int]:
    return [size for size, _ in one.points]


def test_a_small_part_is_always_measured_and_a_larger_one_where_it_fits(series) -> None:
    one, failed = series(1000)
    one.begin(60.0)
    assert (sizes(one), failed) == ([5], [])
    one.grow(2.0)
    assert sizes(one) == [5], "eight rows would say little more than five"
    one.grow(3.001)
    assert sizes(one) == [5, 15], "half of the first part is taken to be done once"
    assert one.at(1000) == pytest.approx(101)
    one.times = 3.0
    assert one.foretold() == pytest.approx(303)
    one.grow(6.05)
    assert sizes(one) == [5, 15, 50]
    small, _ = series(8)
    small.begin(60.0)
    small.grow(60.0)
    assert sizes(small) == [5, 8], "the whole is the largest part"


def test_second_parts_are_measured_first_where_most_is_guessed(series) -> None:
    made, _ = series(1000)
    long, short, done = (Series(whole, made.work, lambda why: None, 2, 5) for whole in (1000, 10, 2))
    together = SharedTime(60.0, 0.0, 3)
    for one in (short, long, done):
        together.begin(one)
    assert long.at(1000) == pytest.approx(1.2 + 0.3 * 998), "half of the first part is taken to be done once"
    assert long.separating() == pytest.approx(2.1), "half of what two took, and five halves of the other half"
    now = 3 * 1.2
    together.separate(now + 2.0)
    assert [sizes(one) for one in together.series] == [[2], [2], [2]]
    together.separate(now + 2.2)
    assert [sizes(one) for one in together.series] == [[2], [2, 5], [2]], "less was guessed of the short one"
    assert long.at(1000) == pytest.approx(101)
    together.separate(60.0)
    assert [sizes(one) for one in together.series] == [[2, 5], [2, 5], [2]], "the whole was measured"


def test_all_parts_share_the_time_and_one_that_takes_it_all_spoils_no_other(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("alignbench.worker.tasks.growing.busy_clock", lambda: now[0])
    monkeypatch.setattr("alignbench.worker.tasks.growing.limited", limits := Limits(now))
    together = SharedTime(60.0, now[0], 6)
    failed: list[str] = []
    for seconds in (1.0, 500.0, 2.0, 500.0, 3.0, 1.0):
        together.begin(Series(100, limits.taking(seconds), failed.append, 5))
    assert [len(one.points) for one in together.series] == [1, 0, 1, 0, 1, 1]
    assert len(failed) == 2
    assert now[0] - 100 <= 60
    assert together.ends() == 160
    together.series[0].times = 400
    assert together.ends() == pytest.approx(100 + 0.03 * together.foretold()), "a long run has more time"


def test_a_part_of_a_long_run_may_take_most_of_the_time(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("alignbench.worker.tasks.growing.busy_clock", lambda: now[0])
    monkeypatch.setattr("alignbench.worker.tasks.growing.limited", limits := Limits(now))
    together, failed = SharedTime(60.0, now[0], 20), list[str]()
    together.begin(Series(100, limits.taking(25.0), failed.append, 2))
    together.begin(Series(30, limits.taking(25.0), failed.append, 2))
    assert [len(one.points) for one in together.series] == [1, 0], "2 of 30 are more than 3 %"
    now[0] = 70.0
    together.begin(Series(100, limits.taking(25.0), failed.append, 2))
    together.begin(Series(100, limits.taking(50.0), failed.append, 2))
    assert [len(one.points) for one in together.series] == [1, 0, 1, 0], (
        "2 of 100 are worth it when time is over"
    )


class Limits:
    """Parts that take a number of seconds by a clock of their own, or as many as they may."""

    def __init__(self, now: list[float]):
        self.now, self.most = now, 0.0

    def taking(self, seconds: float):
        def work(count: int, whole: int) -> float:
            self.now[0] += min(seconds, self.most)
            if seconds > self.most:
                raise OutOfTime
            return seconds

        return work

    @contextmanager
    def __call__(self, seconds: float):
        self.most = seconds
        yield


def test_a_part_that_is_too_small_is_followed_by_a_larger_one(series) -> None:
    one, failed = series(100, least=15)
    one.begin(60.0)
    assert (sizes(one), failed) == ([25], [])
    none, failed = series(4, least=15)
    none.begin(60.0)
    assert (sizes(none), failed) == ([], ["nothing to learn from 4 rows"])


def test_a_part_that_never_ends_is_given_up() -> None:
    def work(count: int, whole: int) -> float:
        while True:
            time.sleep(0.01)

    began, failed = time.monotonic(), list[str]()
    Series(10, work, failed.append).begin(0.2)
    assert len(failed) == 1
    assert "of 10 took longer than" in failed[0]
    assert 0.2 < time.monotonic() - began < 5
    with pytest.raises(OutOfTime), limited(0.05):
        time.sleep(5)
    time.sleep(0.1)  # nothing rings afterwards


def test_rows_of_a_part_are_as_long_as_all_rows() -> None:
    rows = [SimpleNamespace(length=length) for length in (9, 1, 5, 3, 7, 2, 8, 4, 6)]
    assert [row.length for row in spread(rows, 3)] == [5, 2, 8]
    assert spread(rows, 20) == rows
    few_long = [SimpleNamespace(length=length) for length in (10, 11, 12, 13, 14, 20, 30, 120)]
    assert [row.length for row in spread(few_long, 2)] == [11, 30], (
        "46 is the mean of the longer four, 17 their median"
    )


@pytest.mark.parametrize(
    ("budget", "part"),
    [
        (Budget(epochs=2), Budget(epochs=2)),
        (Budget(rows=400), Budget(rows=8)),
        (Budget(steps=25), Budget(steps=1)),
        (Budget(tokens=5000), Budget(tokens=100)),
    ],
)
def test_a_part_has_its_share_of_every_budget(tmp_path: Path, budget: Budget, part: Budget) -> None:
    text = RECIPE.replace("{epochs: 1}", budget.model_dump_json(exclude_none=True))
    plan = smaller(resolve(recipe(tmp_path, text).recipe), 8, 8 / 400)
    planned = plan.labels["sft"]
    assert getattr(planned.budget, part.unit) == part.amount
    assert planned.training.batch == plan.training.batch == plan.recipe.training.batch == 8
    assert (plan.recipe.evaluation.prompts, plan.recipe.evaluation.tuning_prompts) == (1, 2)


def test_labels_are_measured_where_what_they_name_is_measured(tmp_path: Path) -> None:
    text = RECIPE.replace("  broken:", "  rain: {}\n  best-of-n: {like: rain}\n  broken:")
    plan = resolve(recipe(tmp_path, text).recipe)
    labels = ["base", "sft", "rain", "best-of-n", "broken", "after-it"]
    assert forecast.divided(plan, labels, 2) == [["base", "rain", "best-of-n"], ["sft", "broken", "after-it"]]
    assert forecast.divided(plan, labels, 1) == [labels]
    soup = SimpleNamespace(parents=("sft", "rain", "broken"), start="base")
    named = SimpleNamespace(labels={**plan.labels, "soup": soup})
    assert forecast.divided(named, [*labels, "soup"], 2) == [  # pyright: ignore[reportArgumentType]
        ["base", "after-it"],
        ["sft", "rain", "best-of-n", "broken", "soup"],
    ], "what a label names is measured beside it, wherever it would have been"
    assert forecast.divided(plan, ["base"], 4) == [["base"]]


class Killed:
    """A launcher whose processes die at the label `broken`, or before anything if there is `nothing`."""

    def __init__(self, nothing: bool = False) -> None:
        self.nothing = nothing
        self.asked: list[list[str]] = []
        self.ended: dict[str, Finished] = {}

    def start(self, name: str, task: Task, needs: Needs) -> None:
        self.asked.append(task.what["labels"])
        self.ended[name] = Finished()
        if self.nothing:
            self.ended[name] = Finished("failed", "no room on the disk")
            return
        with (task.run / layout.MEASURED).open("a") as file:
            file.write("\n")
            for label in task.what["labels"]:
                file.write(json.dumps({"label": label, "begun": True}) + "\n")
                if label == "broken":
                    file.write('{"label": "bro')
                    self.ended[name] = Finished("failed", "killed by SIGKILL (out of memory?)")
                    return
                file.write(json.dumps({"label": label, "done": True}) + "\n")
            if task.what["evaluates"]:
                file.write(json.dumps({"evaluated": 2, "comparing": 1.0}) + "\n")

    def wait(self, on_event: object, timeout: float | None = None) -> dict[str, Finished]:
        ended, self.ended = self.ended, {}
        return ended


@pytest.mark.parametrize(
    ("workers", "labels", "asked"),
    [
        (1, "base sft broken after-it", [["base", "sft", "broken", "after-it"], ["after-it"]]),
        (2, "base sft broken after-it", [["base", "broken"], ["sft", "after-it"]]),
        (1, "base sft broken", [["base", "sft", "broken"], []]),
    ],
)
def test_a_killed_process_costs_its_label_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, labels: str, asked: list[list[str]]
) -> None:
    found = measured_by(launcher := Killed(), tmp_path, monkeypatch, workers, labels.split())
    assert launcher.asked == asked
    assert {line["label"] for line in found if line.get("done")} == set(labels.split()) - {"broken"}
    assert {"label": "broken", "failed": "killed by SIGKILL (out of memory?)"} in found
    assert any("evaluated" in line for line in found)


def test_where_no_process_can_load_the_base_the_forecast_ends(tmp_path: Path, monkeypatch) -> None:
    launcher = Killed(nothing=True)
    with pytest.raises(AlignbenchError, match="no room on the disk"):
        measured_by(launcher, tmp_path, monkeypatch, 2, ["base", "sft"])
    assert launcher.asked == [["base"], ["sft"]]


def measured_by(launcher: Killed, folder: Path, monkeypatch, workers: int, labels: list[str]) -> list[dict]:
    loaded = recipe(folder)
    monkeypatch.setattr("alignbench.engine.resources.max_workers", lambda plan, launcher: workers)
    return forecast._measure(
        launcher,  # pyright: ignore[reportArgumentType]
        loaded,
        resolve(loaded.recipe),
        folder,
        labels,
        9.0,
        lambda one: None,
    )

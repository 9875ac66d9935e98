"""Answers at a grid of temperatures: drawn once each, chosen by validation prompts, ranked on test prompts."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from typer.testing import CliRunner

from alignbench import layout, results
from alignbench.cli import app
from alignbench.data.table import open_table
from alignbench.sandbox import gold
from alignbench.worker.finished import samples

RECIPE = """
model: {{id: sandbox}}
data: {{train: sandbox, limit: 32, max_length: 128}}
training: {{threads: 1, batch: 8}}
budget: {{steps: 3}}
methods:
  sft: {{learning_rate: 3.0e-3}}
  prompted: {{method: few-shot, start: sft, shots: 1}}
  search: {{method: rain, start: sft, searches: 2, least_searches: 0, candidates: 2, pairs: 0,
           max_forwards: 8}}
evaluation:
  prompts: 8
  tuning_prompts: 10
  samples_per_prompt: 2
  sampling: {{temperature: {temperature}, max_new_tokens: 16}}
  judges: [gold, self]
  metrics: [reward, win_rate, kl, length]
"""
GRID = [0.0, 1.0]


def ran(folder: Path, temperature: Any, *, more: str = "") -> Path:
    (folder / "recipe.yaml").write_text(RECIPE.format(temperature=temperature) + more)
    done = CliRunner().invoke(app, ["run", str(folder / "recipe.yaml"), "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("grid")
        patched.setenv("ALIGNBENCH_HOME", str(folder / "home"))
        return ran(folder, GRID)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("single")
        patched.setenv("ALIGNBENCH_HOME", str(folder / "home"))
        return ran(folder, 1)


def scored(run: Path, label: str, name: str, split: Any) -> dict[Any, list[float]]:
    """Gold's scores of a cell's answers at each temperature, from its files alone."""
    table = open_table(run / layout.DATA)
    asked = {one.id: [dict(turn) for turn in one.prompt] for one in table.prompts(split, 1000)}
    answered = samples.read(layout.cell_folder(run, label, 0), name)
    return {at: [gold(asked[a.prompt_id], a.text).reward for a in of] for at, of in answered.items()}


def mean_gold(run: Path, label: str, name: str, split: Any) -> dict[Any, float]:
    return {at: fmean(scores) for at, scores in scored(run, label, name, split).items()}


def test_validation_prompts_choose_and_test_prompts_rank(grid: Path):
    record, labels = results.read(grid), ("base", "sft", "prompted")
    tuning = {label: scored(grid, label, layout.TUNING_SAMPLES, "validation") for label in labels}
    best = [max(sorted(GRID), key=lambda at: fmean(of[at])) for of in tuning.values()]
    shared = max(GRID, key=lambda at: (best.count(at), sum(fmean(of[at]) for of in tuning.values())))
    for label in labels:
        found = record.label(label)
        assert found is not None
        assert found.sampling is not None
        tuned = mean_gold(grid, label, layout.TUNING_SAMPLES, "validation")
        assert {one.temperature: one.score.value for one in found.sampling.scores} == pytest.approx(tuned)
        (other,) = (at for at in GRID if at != shared)
        gains = [x - y for x, y in zip(tuning[label][other], tuning[label][shared], strict=True)]
        leaves = fmean(gains) > 2 * stdev(gains) / len(gains) ** 0.5
        assert found.sampling.temperature == (other if leaves else shared)
        assert (found.sampling.judge, found.sampling.prompts) == ("gold", 10)
        on_test = mean_gold(grid, label, layout.SAMPLES, "test")
        assert found.metrics["reward"].value == pytest.approx(on_test[found.sampling.temperature])
        by_setting = {one.temperature: one.labels[label]["reward"].value for one in record.settings}
        assert by_setting == pytest.approx(on_test)


def test_a_decoder_that_ignores_the_temperature_answers_once_and_says_so(grid: Path):
    record = results.read(grid)
    search = record.label("search")
    assert search is not None
    assert search.sampling is not None
    assert search.sampling.temperature is None
    assert search.sampling.reason == "its policy ignores the temperature"
    assert set(mean_gold(grid, "search", layout.SAMPLES, "test")) == {None}
    assert len({one.labels["search"]["reward"].value for one in record.settings}) == 1


def test_greedy_answers_are_drawn_once_and_stand_for_every_sample(grid: Path):
    answered = samples.read(layout.cell_folder(grid, "sft", 0))
    greedy, drawn = answered[0.0], answered[1.0]
    assert [(one.prompt_id, one.sample) for one in greedy] == [(one.prompt_id, one.sample) for one in drawn]
    assert [one.text for one in greedy[::2]] == [one.text for one in greedy[1::2]]
    assert [one.text for one in drawn[::2]] != [one.text for one in drawn[1::2]]


def test_divergences_are_those_of_answers_drawn_at_temperature_1(grid: Path, single: Path):
    """The policies are the same, and so is the noise of their answers at 1: whatever they are ranked at."""
    many, one = results.read(grid), results.read(single)
    for label in ("sft", "base"):
        ours, theirs = many.label(label), one.label(label)
        assert ours is not None
        assert theirs is not None
        assert ours.metrics["kl.base"] == theirs.metrics["kl.base"]
        assert "answers, not a divergence" not in many.metrics["kl.base"].description
    point = {(p.label, p.seed): p.reward.value for p in many.frontier}
    assert point["sft", 0] == pytest.approx(mean_gold(grid, "sft", layout.SAMPLES, "test")[1.0])


def test_an_expensive_judge_judges_the_chosen_temperature_alone(grid: Path):
    record = results.read(grid)
    assert "reward@self" in record.metrics
    for setting in record.settings:
        assert set(setting.labels["sft"]) >= {"reward", "win_rate", "length.tokens"}
        assert not [name for name in setting.labels["sft"] if "self" in name or name.startswith("kl")]


def test_one_temperature_is_a_grid_of_one(single: Path):
    record = results.read(single)
    sft = record.label("sft")
    assert sft is not None
    assert sft.sampling is not None
    assert (sft.sampling.temperature, sft.sampling.judge) == (1.0, None)
    assert record.settings == ()
    assert not (layout.cell_folder(single, "sft", 0) / layout.TUNING_SAMPLES).exists()
    assert set(samples.read(layout.cell_folder(single, "sft", 0))) == {1.0}


def test_a_second_command_finds_everything_finished(grid: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(grid.parent / "home"))
    before = results.without_volatile(results.read(grid))
    sealed = {path: path.stat().st_mtime_ns for path in grid.rglob("COMMIT")}
    done = CliRunner().invoke(app, ["run", str(grid.parent / "recipe.yaml"), "--out", str(grid)])
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in grid.rglob("COMMIT")} == sealed
    assert results.without_volatile(results.read(grid)) == before

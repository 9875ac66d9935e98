"""`results.json` is written and read back without loss."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from alignbench.api.method import Departure
from alignbench.errors import Exit, RecipeError, StorageError
from alignbench.results import (
    CellResult,
    Comparison,
    Cost,
    LabelResult,
    Measured,
    Results,
    as_json,
    read,
    without_volatile,
    write,
)


def a_run(seconds: float = 12.5, **more) -> Results:
    return Results(
        run="quick",
        recipe={"methods": {"zeta": {}, "alpha": {}}},
        labels=(
            LabelResult(
                label="base", seeds=(0,), metrics={"reward": Measured(value=0.4, ci95=(0.3, 0.5), n=200)}
            ),
            LabelResult(
                label="dpo",
                method="dpo",
                distribution="alignbench-nowhere",
                version="9.9",
                start="base",
                departures=(Departure("batch", "16", "32"),),
                seeds=(0,),
            ),
        ),
        cells=(
            CellResult(
                label="base",
                seed=0,
                status="done",
                cost=Cost(seconds=seconds, forward_passes=7),
            ),
            CellResult(label="dpo", seed=0, status="failed", reason="out of memory"),
        ),
        comparisons=(
            Comparison(
                a="dpo",
                b="base",
                metric="reward",
                judge="gold",
                difference=0.1,
                ci95=(0.05, 0.2),
                verdict="better",
            ),
        ),
        **more,
    )


def test_a_record_read_back_is_the_record_that_was_written(tmp_path: Path):
    assert read(write(a_run(), tmp_path)) == a_run()


def test_a_run_is_named_by_its_folder_or_by_the_file_itself(tmp_path: Path):
    file = write(a_run(), tmp_path)
    assert read(tmp_path) == read(file) == read(str(tmp_path))


def test_equal_results_give_equal_bytes_and_keep_the_recipes_order(tmp_path: Path):
    first = write(a_run(), tmp_path).read_bytes()
    assert write(a_run(), tmp_path).read_bytes() == first
    assert first.index(b'"zeta"') < first.index(b'"alpha"')
    assert first.startswith(b'{\n "schema": 5,')


def test_writing_leaves_nothing_but_the_record(tmp_path: Path):
    write(a_run(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan"), np.float32("inf")]
)
def test_a_number_that_is_not_finite_is_a_missing_one_with_its_reason(bad: float):
    measured = Measured(value=bad, ci95=(0.1, bad), n=3)
    assert measured.value is None
    assert measured.ci95 is None
    assert "not a finite number" in measured.missing


def test_an_interval_without_an_end_is_dropped_and_the_value_stays():
    measured = Measured(value=0.5, ci95=(0.1, float("inf")))
    assert (measured.value, measured.ci95, measured.missing) == (0.5, None, "")


def test_a_metric_without_a_value_always_says_why():
    assert Measured().missing == "not measured"
    assert (
        Measured(missing="a decoder has no log-probabilities").missing == "a decoder has no log-probabilities"
    )


def test_non_finite_numbers_and_numpy_never_reach_the_file_as_numbers(tmp_path: Path):
    odd = {
        "loss": float("nan"),
        "deep": [{"x": np.float32("inf")}],
        "n": np.int64(3),
        "v": np.arange(2),
        "p": Path("a"),
    }
    file = write(a_run(environment=odd, cost=Cost(train_seconds=float("nan"))), tmp_path)

    def refuse(name: str):
        raise AssertionError(f"{name} in the file")

    record = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["environment"] == {"loss": "nan", "deep": [{"x": "inf"}], "n": 3, "v": [0, 1], "p": "a"}
    assert record["cost"]["train_seconds"] is None


def test_text_that_is_no_text_survives_the_file(tmp_path: Path):
    odd = "lone \ud800 surrogate, NUL \0, 日本語, עברית"
    assert read(write(a_run(command=odd), tmp_path)).command == odd


def test_a_result_that_names_an_uninstalled_plugin_opens(tmp_path: Path):
    label = read(write(a_run(), tmp_path)).label("dpo")
    assert label is not None
    assert (label.distribution, label.version) == ("alignbench-nowhere", "9.9")


def test_fields_that_a_later_version_added_are_passed_over(tmp_path: Path):
    file = write(a_run(), tmp_path)
    record = json.loads(file.read_bytes())
    record["novelty"] = 1
    record["cells"][0]["novelty"] = {"a": 1}
    file.write_text(json.dumps(record), encoding="utf-8")
    assert read(file) == a_run()


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (6, r"written by a newer alignbench \(schema 6; this one reads 5\); upgrade"),
        (4, r"written by an older alignbench \(schema 4; this one reads 5\); run its recipe again"),
    ],
)
def test_a_record_of_another_schema_says_what_to_do(tmp_path: Path, schema: int, says: str):
    record = {"schema": schema, "cells": [{"label": "a", "seed": 0, "status": "done", "alarms": ["x"]}]}
    (tmp_path / "results.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RecipeError, match=says) as error:
        read(tmp_path)
    assert error.value.exit_code == Exit.USAGE


def test_a_folder_without_a_record_is_named(tmp_path: Path):
    with pytest.raises(
        RecipeError, match=r"results\.json: there is no record of a run here; name the folder of a finished"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 5, "cells": [', r"results\.json:1:25: is not JSON: Expecting value"),
        (b"", r"results\.json:1:1: is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"schema": 5, "cost": {"train_seconds": NaN}}', "NaN is not a JSON number"),
        (b"[1, 2]", "has no `schema` number"),
        (b'{"schema": "1"}', "has no `schema` number"),
        (
            b'{"schema": 5, "cells": [{"label": "a", "seed": 0, "status": "fine"}]}',
            r"cells\.0\.status: Input should be 'done'",
        ),
        (
            b'{"schema": 5, "labels": [{"label": "a", "metrics": {"r": {"value": 1, "ci95": ["x", 2]}}}]}',
            r"labels\.0\.metrics\.r",
        ),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_damaged_record_is_a_storage_error_with_the_place_and_what_to_do(
    tmp_path: Path, content: bytes, message: str
):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(StorageError, match=message) as error:
        read(tmp_path)
    assert "run the recipe again" in str(error.value)
    assert error.value.exit_code == Exit.STORAGE


def test_every_wrong_field_is_told_at_once(tmp_path: Path):
    cells = [{"label": "a", "seed": "x", "status": "fine"} for _ in range(15)]
    (tmp_path / "results.json").write_text(json.dumps({"schema": 5, "cells": cells}), encoding="utf-8")
    with pytest.raises(StorageError) as error:
        read(tmp_path)
    assert len(error.value.problems) == 20
    assert str(error.value).endswith("... and 10 more")


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = write(a_run(), tmp_path).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write(a_run(seconds=99), tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_runs_that_differ_in_volatile_fields_only_are_equal_without_them():
    slow = a_run(
        seconds=80.0, environment={"started": "noon", "torch": "2.13"}, command="alignbench run /a/b.yaml"
    )
    fast = a_run(
        seconds=1.0, environment={"started": "midnight", "torch": "2.13"}, command="alignbench run c.yaml"
    )
    assert without_volatile(slow) == without_volatile(fast)
    assert b"forward_passes" in without_volatile(slow)


def test_runs_that_differ_elsewhere_are_not_equal_without_volatile_fields():
    assert without_volatile(a_run()) != without_volatile(a_run(environment={"torch": "2.14"}))


def test_volatile_pointers_reach_keys_with_dots_slashes_and_stars():
    results = a_run(
        environment={"a/b": {"reward.harmless": 1, "keep": 2}}, volatile=("/environment/a~1b/reward.*",)
    )
    assert as_json(results)["environment"] == {"a/b": {"reward.harmless": 1, "keep": 2}}
    assert json.loads(without_volatile(results))["environment"] == {"a/b": {"keep": 2}}


def test_a_comparison_is_found_whichever_way_round_it_is_stored():
    turned = a_run().comparison("base", "dpo", "reward")
    assert turned is not None
    assert (turned.a, turned.b, turned.difference, turned.ci95) == ("base", "dpo", -0.1, (-0.2, -0.05))
    assert turned.verdict == "worse"
    assert turned.swapped() == a_run().comparison("dpo", "base", "reward")


def test_a_comparison_under_another_estimand_or_judge_is_not_confused_with_it():
    assert a_run().comparison("dpo", "base", "reward", "method") is None
    assert a_run().comparison("dpo", "base", "reward", judge="rm") is None
    assert a_run().comparison("dpo", "base", "length") is None


def test_the_record_is_read_without_torch_and_without_plugins():
    import subprocess
    import sys

    heavy = "'torch', 'transformers', 'matplotlib', 'pyarrow', 'scipy', 'jinja2'"
    code = f"import sys, alignbench.results, alignbench.report; print(sorted({{{heavy}}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

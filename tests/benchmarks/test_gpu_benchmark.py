"""The benchmark of a GPU where there is none: what a processor can do runs, and the rest says why it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def gpu(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("gpu.py")
    monkeypatch.setattr(module, "cuda", lambda: False)
    return module


def test_one_object_says_what_ran_and_why_the_rest_did_not(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [
        line
        for line in gpu.RECIPE.splitlines()
        if not line.startswith(("  dpo", "  orpo", "  rlhf", "  rain"))
    ]
    monkeypatch.setattr(gpu, "RECIPE", "\n".join(kept))
    gpu.main(["--only", "tests", "--only", "smollm2", "--only", "shape"])
    measured = json.loads(capsys.readouterr().out)
    assert (measured["benchmark"], measured["device"]) == ("gpu", "cpu")
    assert measured["versions"]["torch"]
    assert measured["parts"]["tests"]["why"] == "there is no CUDA device"
    assert "make smollm2" in measured["parts"]["smollm2"]["why"]
    shape = measured["parts"]["shape"]
    assert shape["ran"], shape
    assert shape["small"]
    sft = shape["labels"]["sft"]
    assert sft["peak_memory_bytes"] > 1e7
    assert sft["train_tokens_per_second"] > 0
    assert sft["decode_tokens_per_second"] > 0
    assert shape["equal_runs"]["largest_weight"] > 0
    assert shape["equal_runs"]["largest_difference_of_a_weight"] == 0, "on a processor, equal runs are equal"


def test_no_part_takes_the_time_of_those_after_it_and_what_it_leaves_is_theirs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, given = [0.0], {}
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])

    def part(name: str, taken: float) -> Callable[..., dict[str, object]]:
        def run(folder: Path, seconds: float, options: object) -> dict[str, object]:
            given[name] = seconds
            now[0] += min(taken, seconds)
            return {}

        return run

    monkeypatch.setattr(
        gpu, "PARTS", {name: part(name, 1e9) for name in gpu.SHARES} | {"shape": part("shape", 10)}
    )
    gpu.main(["--seconds", "600"])
    assert given == pytest.approx(
        {"tests": 60, "shape": 180, "sandbox": 530 / 3, "smollm2": 265, "spread": 265 / 3}
    )


def test_a_part_that_fails_or_comes_too_late_spoils_no_other(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(folder: Path, seconds: float, options: object) -> dict[str, object]:
        return {"printed": gpu.called("-c", "import time; time.sleep(60)", seconds=1.0)}

    def broken(folder: Path, seconds: float, options: object) -> dict[str, object]:
        return {"printed": gpu.called("-c", "raise SystemExit('no kernel image')", seconds=9.0)}

    monkeypatch.setattr(gpu, "PARTS", {"late": late, "broken": broken, "well": lambda *_: {"figure": 1}})
    gpu.main([])
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["late"]["why"] == "stopped after 1 s, when the time was over"
    assert "no kernel image" in parts["broken"]["why"]
    assert parts["well"] == {"ran": True, "figure": 1, "took_seconds": parts["well"]["took_seconds"]}

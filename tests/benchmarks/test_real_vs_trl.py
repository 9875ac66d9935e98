"""The benchmark of a real model: our arm trains by each method, on the sandbox's base and rows."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("real_vs_trl.py")


@pytest.fixture(scope="module")
def given(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Namespace:
    table = tmp_path_factory.mktemp("rows")
    given = Namespace(
        model="sandbox", rows="sandbox", steps=2, batch=4, compute=["float32"], only=None, table=table
    )
    benchmark.prepare(given, table)
    return given


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_our_arm_trains_each_row_once(benchmark: ModuleType, given: Namespace, method: str) -> None:
    measured = benchmark.ours(Namespace(**{**vars(given), "only": method}))
    rows = benchmark.rows_of(given, given.table)
    assert len(rows) == 8
    assert measured["tokens"] == benchmark.tokens(rows, method) > 0
    assert 0 < measured["loss"] < 10

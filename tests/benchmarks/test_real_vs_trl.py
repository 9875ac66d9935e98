"""The benchmark of a real model: our arm trains by each method, on the sandbox's base and rows."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


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
    assert measured["settings"] == {"weights": "torch.float32", "recomputes": False}


@pytest.mark.skipif(torch.cuda.is_available(), reason="what TRL does without a device")
def test_what_trl_does_by_default_on_a_processor_is_what_the_results_say(
    benchmark: ModuleType, root: Path, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    with pytest.raises(ValueError, match="need to assign use_cpu"):
        trl.SFTConfig(output_dir=str(tmp_path), report_to="none")
    for kind in (trl.SFTConfig, trl.DPOConfig, trl.RewardConfig):
        by_default = kind(output_dir=str(tmp_path), report_to="none", use_cpu=True)
        assert by_default.bf16
        assert by_default.gradient_checkpointing
    assert trl.ModelConfig().dtype == "float32"
    said = (root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert "float32 weights, products in bfloat16 by autocast, activations recomputed" in said
    assert benchmark.equal_settings("bfloat16").keys() == {"dtype", "bf16", "gradient_checkpointing"}

"""On CUDA: nothing touches the device before the fork, and two cells run one after the other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alignbench import results
from alignbench.launchers.machine import has_cuda
from alignbench.worker.process import PRELOAD

from .conftest import Session


@pytest.mark.gpu
def test_nothing_that_is_preloaded_initialises_the_device():
    program = "import alignbench.worker.process, sys; assert 'torch' not in sys.modules, 'torch is loaded'"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert has_cuda()


@pytest.mark.gpu
def test_two_cells_run_on_the_device(session: Session):
    code, output = session.run(session.recipe("good: {}\nbetter: {method: good}", "cuda"), "cuda")
    assert code == 0, output
    record = results.read(session.folder / "cuda")
    assert record.environment["device"].startswith("cuda")
    assert [cell.status for cell in record.cells] == ["done"] * 3


def test_on_a_machine_without_a_device_the_heavy_imports_are_preloaded_without_touching_one():
    program = f"import importlib; [importlib.import_module(m) for m in {PRELOAD!r}]; import torch; " + (
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""Equal recipes give equal bytes wherever they run: jobs, hash seed, locale, time zone, umask, odd paths."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import RECIPE
from .test_isolation import digest

TRAINED = (
    RECIPE
    + "  tried: {method: sft, start: base, budget: {steps: 2}}\n"
    + "  second: {method: dpo, start: base, budget: {steps: 2}}\n"
)
FEW = 8
ODD = "a place with spaces, 場所 and 🦙"

PLAIN = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
STRANGE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Apia"}


def run(
    folder: Path, surroundings: dict[str, str], *, umask: int = 0o022, files: int | None = None, jobs: int = 1
) -> str:
    """Run the recipe in the folder, as a process of its own; return what it printed, its exit code last."""
    folder.mkdir(parents=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(TRAINED, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "LC_CTYPE")}

    def limit() -> None:
        os.umask(umask)
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [sys.executable, "-c", "from alignbench.cli import app; app()", "run", str(recipe)]
    done = subprocess.run(
        [*command, "--out", str(folder / "run"), "--jobs", str(jobs)],
        env={**kept, **surroundings, "ALIGNBENCH_HOME": str(folder / "home")},
        capture_output=True,
        check=False,
        preexec_fn=limit,
    )
    return (done.stdout + done.stderr).decode("utf-8", "replace") + f"\nexit {done.returncode}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plain") / "here"
    found = run(folder, PLAIN)
    assert found.endswith("exit 0"), found
    return digest(folder / "run" / "cells")


def test_the_bytes_are_the_same_in_strange_surroundings(tmp_path: Path, plain: dict[str, str]):
    folder = tmp_path / ODD
    result = run(folder, STRANGE, umask=0o077)
    assert result.endswith("exit 0"), result
    found = digest(folder / "run" / "cells")
    assert found == plain
    assert any(name.endswith("adapter_model.safetensors") for name in found), "something was trained"


def test_cells_side_by_side_leave_the_bytes_of_cells_in_a_row(tmp_path: Path, plain: dict[str, str]):
    folder = tmp_path / "two at once"
    found = run(folder, PLAIN, jobs=2)
    assert found.endswith("exit 0"), found
    assert digest(folder / "run" / "cells") == plain


def test_a_process_that_may_open_few_files_says_so_and_leaves_nothing_half(
    tmp_path: Path, plain: dict[str, str]
):
    folder = tmp_path / "few"
    result = run(folder, PLAIN, files=FEW)
    assert result.endswith("exit 6"), result
    assert "too many open files; raise the limit" in result, result
    assert "Traceback" not in result
    cells = folder / "run" / "cells"
    assert {name: found for name, found in digest(cells).items() if plain[name] != found} == {}

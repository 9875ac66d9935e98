"""The command line starts at once, and without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "trl", "pydantic", "rich", "yaml")


MODULES = 420
"""Modules that Python has loaded when the help is printed, at most. Counted, not timed: machines are noisy."""


def test_help_loads_few_modules(root: Path) -> None:
    script = (
        "import sys; sys.argv = ['alignbench', '--help']\n"
        "from alignbench.cli import app\n"
        "try:\n    app()\n"
        "finally:\n    print(len(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert "Usage" in ran.stdout
    assert int(ran.stderr) <= MODULES


def test_the_command_line_loads_nothing_heavy_before_a_command_needs_it(root: Path) -> None:
    script = f"import alignbench.cli, sys; print([name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(root: Path) -> None:
    command = [sys.executable, "-c", "from alignbench.cli import app; app()", "methods", "--json"]
    ours, theirs = os.pipe()
    os.close(ours)  # nobody reads
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        os.close(theirs)
        _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 0


WAITS = "    time.sleep(60)\n"
REPLACES = "    try: time.sleep(60)\n    except KeyboardInterrupt: raise KeyboardInterrupt from None\n"
"""As `ray.wait` does where the signal finds it in C++."""


@pytest.mark.parametrize("waiting", [WAITS, REPLACES])
@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_exit_code_and_no_traceback(
    root: Path, tmp_path: Path, sign: signal.Signals, code: int, waiting: str
) -> None:
    script = (
        "import sys, time, alignbench.engine.run\n"
        "def slow(*_, **__):\n"
        "    print('a library says this')\n"
        f"    print('working', file=sys.__stdout__, flush=True)\n{waiting}"
        "alignbench.engine.run.run = slow\n"
        "from alignbench.cli import app\napp()"
    )
    command = [sys.executable, "-c", script, "run", "recipes/quickstart.yaml", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(sign)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "nothing is lost, continue with:" in errors
    assert "Traceback" not in errors

"""A cell that goes wrong is one failed row with its reason; everything else is as if it had not been there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from alignbench import results, store
from alignbench.results import Results

from .conftest import Session

ALL = """
raises: {}
segfaults: {}
vanishes: {}
starves: {}
chats: {}
meddles: {}
good: {}
after: {method: good, start: raises}
"""


@pytest.fixture(scope="module")
def ran(session: Session) -> tuple[int, str, Results]:
    code, output = session.run(session.recipe(ALL), "all")
    assert code == 1, output
    return code, output, results.read(session.folder / "all")


@pytest.fixture(scope="module")
def alone(session: Session) -> Path:
    """The folder of a run in which nothing goes wrong."""
    code, output = session.run(session.recipe("good: {}", "alone"), "alone")
    assert code == 0, output
    return session.folder / "alone"


def cell(record: Results, label: str) -> results.CellResult:
    return record.cells_of(label)[0]


def test_the_run_ends_with_exit_code_1_and_all_cells_on_record(ran: tuple[int, str, Results]):
    code, found, record = ran
    assert code == 1, found
    assert {one.label for one in record.cells} == {
        "base",
        "raises",
        "segfaults",
        "vanishes",
        "starves",
        "chats",
        "meddles",
        "good",
        "after",
    }


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("raises", "ValueError: no such luck"),
        ("segfaults", "SIGSEGV"),
        ("vanishes", "ended with code 0 and left no result"),
        ("starves", "out of memory"),
        ("chats", "returned str, which is not a policy"),
    ],
)
def test_a_cell_that_goes_wrong_is_a_failed_row_with_its_reason(
    ran: tuple[int, str, Results], label: str, reason: str
):
    found = cell(ran[2], label)
    assert found.status == "failed"
    assert reason in found.reason


def test_what_starts_from_a_failed_label_is_blocked_and_says_by_whom(ran: tuple[int, str, Results]):
    found = cell(ran[2], "after")
    assert (found.status, found.reason) == ("blocked", "its start 'raises' is failed")


def test_the_others_go_on(ran: tuple[int, str, Results]):
    assert cell(ran[2], "good").status == "done"
    assert cell(ran[2], "good").metrics["reward"].value == cell(ran[2], "base").metrics["reward"].value


def test_the_bytes_of_the_others_equal_a_run_without_it(
    session: Session, ran: tuple[int, str, Results], alone: Path
):
    for label in ("base", "good"):
        assert digest(alone / "cells" / label) == digest(session.folder / "all" / "cells" / label)


def test_switches_a_method_turns_are_turned_back_before_its_policy_answers(session: Session, ran):
    cells = session.folder / "all" / "cells"
    assert answers(cells / "meddles/seed-0/samples.parquet") == answers(cells / "good/seed-0/samples.parquet")


def test_what_a_plugin_prints_goes_into_its_log(session: Session, ran: tuple[int, str, Results]):
    assert "noise" not in ran[1]
    log = (session.folder / "all" / "cells" / "chats" / "seed-0" / "log.txt").read_text()
    assert "noise on stdout" in log
    assert "noise from a child" in log


def test_no_process_is_left_behind(ran: tuple[int, str, Results]):
    assert not running("alignbench-test-orphan")


def test_a_finished_cell_is_not_run_again(session: Session, ran: tuple[int, str, Results]):
    sealed = session.folder / "all" / "cells" / "good" / "seed-0" / "COMMIT"
    before = sealed.stat().st_mtime_ns
    code, _ = session.run(session.recipe(ALL), "all")
    assert code == 1
    assert sealed.stat().st_mtime_ns == before


def test_a_damaged_cell_is_run_again_to_the_same_bytes(session: Session, alone: Path):
    folder = alone / "cells" / "good"
    before = digest(folder)
    with (folder / "seed-0" / "samples.parquet").open("ab") as file:
        file.write(b"x")
    code, output = session.run(session.recipe("good: {}", "alone"), "alone")
    assert code == 0, output
    assert digest(folder) == before


def test_another_recipe_does_not_overwrite_a_run(session: Session, ran: tuple[int, str, Results]):
    code, output = session.run(session.recipe("good: {}\nbetter: {method: good}", "changed"), "all")
    assert code == 2
    assert "another recipe" in output


def test_a_killed_parent_leaves_no_child(session: Session):
    process = session.start(session.recipe("good: {}", "orphans"), "orphans", SLOW="600")
    wait_for(session.folder / "orphans" / "cells" / "good" / "seed-0" / "started")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while (left := children_of(session.folder / "orphans")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_one_ctrl_c_ends_the_run_with_130_and_no_process_left(session: Session):
    process = session.start(session.recipe("good: {}", "stopped"), "stopped", SLOW="600")
    wait_for(session.folder / "stopped" / "cells" / "good" / "seed-0" / "started")
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 30
    assert not children_of(session.folder / "stopped")


def test_a_folder_in_which_another_process_runs_is_refused_and_left_alone(session: Session):
    out = session.folder / "held"
    out.mkdir()
    with store.alone(out):
        code, output = session.run(session.recipe("good: {}", "held"), "held")
    assert code == 6, output
    assert "another process is running in" in output
    assert not list(out.iterdir())


def digest(folder: Path) -> dict[str, str]:
    """Every byte that is not a log and no measured time."""
    return (
        {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name in ("adapter_model.safetensors", "policy.json")
        }
        | {path.relative_to(folder).as_posix(): answers(path) for path in folder.rglob("samples.parquet")}
        | {path.relative_to(folder).as_posix(): curves(path) for path in folder.rglob("train.jsonl")}
    )


def curves(path: Path) -> str:
    text = [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()]
    return hashlib.sha256(repr(text).encode()).hexdigest()


def answers(path: Path) -> str:
    from alignbench.worker.finished import samples

    found = [(a.prompt_id, a.sample, a.ids, a.text, a.finished) for a in samples.read_all(path.parent)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def running(word: str) -> list[str]:
    """Command lines of the processes that hold a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line and f"/{os.getpid()}/" not in str(path):
            found.append(line)
    return found


def children_of(folder: Path) -> list[str]:
    """Processes that hold a file below `folder` open."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(path.readlink()).startswith(str(folder)):
                found.append(str(path))
        except OSError:
            continue
    return found

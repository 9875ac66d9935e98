"""One signal: the step is finished and kept. Two: now. No heartbeat: stopped, with its stacks on record."""

from __future__ import annotations

import os
import signal
import time

import pytest

from alignbench import results

from .conftest import Session
from .test_isolation import children_of, digest, wait_for

TRAINS = "tried: {method: dpo, budget: {steps: 40}}"


def test_a_training_that_is_asked_to_stop_keeps_its_step_and_goes_on_to_the_same_bytes(session: Session):
    recipe = session.recipe("tried: {method: dpo, budget: {steps: 40}}", "trains")
    out = session.folder / "stopped-once"
    process = session.start(recipe, out.name)
    wait_for(out / "cells/tried/seed-0/train.jsonl", 300)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 30
    assert f"nothing is lost, continue with: -c run {recipe} --out {out}" in output
    assert not children_of(out)
    kept = max(out.glob("cells/tried/seed-0/checkpoints/0/*"))
    assert (kept / "COMMIT").exists()
    assert 10 <= int(kept.name) < 40

    code, output = session.run(recipe, out.name)
    assert code == 0, output
    whole = session.folder / "never-stopped"
    code, output = session.run(recipe, whole.name)
    assert code == 0, output
    assert digest(out / "cells/tried") == digest(whole / "cells/tried")
    assert not (out / "cells/tried/seed-0/checkpoints").exists()


def test_a_run_that_is_killed_while_it_measures_goes_on_to_the_same_results(session: Session):
    """With one process at a time or two: cells, measurements and parts of the prompts are sealed one by one."""
    recipe = session.recipe("tried: {method: dpo, budget: {steps: 2}}", "measures")
    recipe.write_text(
        recipe.read_text()
        .replace("prompts: 6", "prompts: 64")
        .replace(
            "[gold], metrics: [reward, length]", "[gold, {self: {wording: sandbox}}], metrics: [win_rate, kl]"
        )
    )
    killed, whole = session.folder / "killed/run", session.folder / "whole/run"
    for begun in ("measurements/base/seed-0/log.txt", "judging/part-1/log.txt"):
        process = session.start(recipe, "killed/run", "--jobs", "2")
        wait_for(killed / begun, 300)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (killed / "evaluation/COMMIT").exists()
    for out in ("killed/run", "whole/run"):
        code, output = session.run(recipe, out, "--jobs", "2" if out.startswith("killed") else "1")
        assert code == 0, output
    assert len(list(whole.glob("judging/part-*/COMMIT"))) == 2
    assert results.without_volatile(results.read(killed)) == results.without_volatile(results.read(whole))


BOTH = "good: {}\nhangs: {}"


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_stop_by_the_service_manager_and_a_lost_terminal_end_a_run_in_order(
    session: Session, sign: signal.Signals, code: int
):
    out = session.folder / "both"
    started = out / "cells/good/seed-0/started"
    started.unlink(missing_ok=True)
    process = session.start(session.recipe(BOTH, "both"), "both", "--only", "good", SLOW="600")
    wait_for(started, 300)
    os.killpg(process.pid, sign)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "nothing is lost" in output
    assert not children_of(out)


def test_a_second_ctrl_c_stops_at_once(session: Session):
    out = session.folder / "both"
    process = session.start(session.recipe(BOTH, "both"), "both", "--only", "hangs")
    wait_for(out / "cells/hangs/seed-0/started", 300)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None, "the first lets the cell finish its step"
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.wait(timeout=30)
    assert time.monotonic() - began < 10
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert not children_of(out)


def test_a_cell_that_reports_nothing_is_a_failed_row_with_its_stacks_in_its_log(session: Session):
    code, text = session.run(session.recipe(BOTH, "both"), "both", "--heartbeat", "30")
    assert code == 1, text
    record = results.read(session.folder / "both")
    (hung,), (good,) = record.cells_of("hangs"), record.cells_of("good")
    assert (hung.status, good.status) == ("failed", "done")
    assert "silent for 30 seconds, and stopped" in hung.reason
    log = (session.folder / "both/cells/hangs/seed-0/log.txt").read_text()
    assert "misbehaving.py" in log
    assert "in align" in log

"""Observers of a run see what they asked for; one that fails is switched off."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest

from alignbench import hookimpl, hooks, plugins
from alignbench.hooks import Observers, Spec

CELL = {"label": "rpo", "seed": 0}


class Watcher:
    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def alignbench_cell_started(self, label: str, seed: int) -> None:
        self.seen.append((label, seed))

    @hookimpl
    def alignbench_step(self, numbers) -> None:  # fewer arguments than the hook gives
        self.seen.append(dict(numbers))


class Raising:
    @hookimpl
    def alignbench_cell_started(self, label: str) -> None:
        raise RuntimeError(f"no {label} today")


def test_an_observer_sees_what_it_asked_for() -> None:
    watcher = Watcher()
    observers = Observers({"watcher": watcher})
    observers.notify("alignbench_cell_started", **CELL)
    observers.notify("alignbench_step", **CELL, step=1, numbers={"loss": 0.5})
    observers.notify("alignbench_cell_finished", **CELL, status="done", reason="")
    assert watcher.seen == [("rpo", 0), {"loss": 0.5}]


def test_an_observer_that_raises_is_switched_off_with_one_warning_and_the_others_go_on() -> None:
    first, last = Watcher(), Watcher()
    observers = Observers({"first": first, "raising": Raising(), "last": last})
    with pytest.warns(
        RuntimeWarning, match="'raising' is switched off.*RuntimeError: no rpo today"
    ) as caught:
        observers.notify("alignbench_cell_started", **CELL)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observers.notify("alignbench_cell_started", **CELL)
    assert first.seen == last.seen == [("rpo", 0), ("rpo", 0)]
    assert observers.names == ("first", "last")


def test_what_an_installed_observer_raises_is_told_with_its_distribution_and_line(install) -> None:
    source = """\
from alignbench import hookimpl, plugins

class Sad:
    @hookimpl
    def alignbench_cell_started(self, label):
        return label + 1
"""
    install("alignbench-sad", modules={"sad_hooks": source}, hooks={"sad": "sad_hooks:Sad"})
    observers = Observers({"sad": plugins.load("hooks", "sad")()})
    with pytest.warns(RuntimeWarning, match=r"alignbench-sad 1.0 failed: TypeError: .* \(sad_hooks.py:6\)"):
        observers.notify("alignbench_cell_started", **CELL)


def test_a_misspelt_hook_switches_its_observer_off_by_name() -> None:
    class Misspelt(Watcher):
        @hookimpl
        def alignbench_cel_started(self, label):
            raise AssertionError

    with pytest.warns(RuntimeWarning, match="'misspelt' is switched off.*alignbench_cel_started"):
        observers = Observers({"good": Watcher(), "misspelt": Misspelt()})
    assert observers.names == ("good",)


def test_a_hook_with_an_argument_that_is_never_given_switches_its_observer_off() -> None:
    class Greedy:
        @hookimpl
        def alignbench_cell_started(self, label, colour):
            raise AssertionError

    with pytest.warns(RuntimeWarning, match=r"'greedy' is switched off.*colour"):
        assert Observers({"greedy": Greedy()}).names == ()


def test_installed_observers_are_ready_and_broken_ones_are_left_out(install) -> None:
    source = (
        "from alignbench import hookimpl\n"
        "class Log:\n"
        "    @hookimpl\n"
        "    def alignbench_run_started(self, folder):\n"
        "        (folder / 'seen').touch()\n"
    )
    install("good-log", modules={"good_log": source}, hooks={"good": "good_log:Log"})
    install("bad-log", modules={"bad_log": "import nothing_like_it"}, hooks={"bad": "bad_log:Log"})
    with pytest.warns(RuntimeWarning, match="'bad' is left out: bad-log 1.0 could not be loaded"):
        observers = hooks.installed()
    assert observers.names == ("good",)


def test_an_observer_can_write_beside_the_run(install, tmp_path: Path) -> None:
    class Log:
        @hookimpl
        def alignbench_run_started(self, folder: Path) -> None:
            (folder / "seen").touch()

    Observers({"log": Log()}).notify("alignbench_run_started", recipe=None, folder=tmp_path)
    assert (tmp_path / "seen").exists()


def test_every_hook_is_documented_and_named_after_the_project() -> None:
    hooks = [hook for name, hook in vars(Spec).items() if not name.startswith("_")]
    assert len(hooks) == 5
    assert all(hook.__name__.startswith("alignbench_") and inspect.getdoc(hook) for hook in hooks)

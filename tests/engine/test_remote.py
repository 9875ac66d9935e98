"""A task on a machine without a common disk: what goes there and comes back is checked, torn bytes are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignbench import layout, store
from alignbench.api.launcher import Event, Finished, Task
from alignbench.errors import PluginError, Problem, StorageError
from alignbench.launchers import Receiver, TransferError, folders, identity, order, pack, remote, work
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing.launchers import RECIPE, made_by
from alignbench.testing.launchers import at as cell_of
from alignbench.testing.sessions import open_session


def sealed(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        store.write_text(folder / name.replace("__", "/"), text)
    store.commit(folder, key="key", producer="test")
    return folder


def test_a_sealed_folder_goes_through_bytes_unchanged(tmp_path: Path):
    made = sealed(tmp_path / "made", a="1", b__c="2", empty="")
    folders.unpack(pack(made), tmp_path / "there")
    assert store.manifest(tmp_path / "there") == store.manifest(made)
    assert (tmp_path / "there/b/c").read_text() == "2"


def test_every_torn_transfer_is_found_and_leaves_nothing_sealed(tmp_path: Path):
    data = pack(sealed(tmp_path / "made", a="first", b__c="second"))
    for at in range(len(data)):
        for torn in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(TransferError):
                folders.verified(torn)
    with pytest.raises(TransferError):
        folders.unpack(data + b"more", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_folder_that_is_damaged_here_is_not_sent(tmp_path: Path):
    made = sealed(tmp_path / "made", a="1")
    (made / "a").write_text("2")
    with pytest.raises(TransferError, match="is not a whole artefact"):
        pack(made)


def test_another_folder_than_the_one_asked_for_is_refused(tmp_path: Path):
    data = pack(sealed(tmp_path / "made", a="1"))
    other = store.manifest(sealed(tmp_path / "other", a="2"))
    assert other is not None
    with pytest.raises(TransferError, match="not those of its manifest"):
        folders.unpack(data, tmp_path / "there", content=other["content"])
    with pytest.raises(TransferError, match="came with the key key"):
        folders.adopt(store.Store(tmp_path / "home"), "another", data)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../b", ""])
def test_no_file_leaves_its_folder(name: str):
    header = json.dumps([[name, 1]]).encode()
    data = len(header).to_bytes(folders.SIZE, "big") + header + b"x"
    with pytest.raises(TransferError, match="outside of the folder"):
        folders.files_of(hashlib.sha256(data).digest() + data)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A cell of a recipe that names files: a small one, one of the data, one that is too large to be sent."""
    root = tmp_path / "recipe"
    root.mkdir()
    (root / "principles.txt").write_text("be kind\n")
    (root / "rows.jsonl").write_text("{}\n")
    (root / "template.jinja").write_text("{{ messages }}")
    (root / "toxic.jsonl").write_text("{}\n")
    methods = {"rlaif": {"start": "base", "labels": {"constitution": "./principles.txt"}}}
    fields: dict[str, Any] = {
        "model": {"id": "sandbox"},
        "data": {"train": "./rows.jsonl"},
        "methods": methods,
        "evaluation": {"metrics": [{"toxicity": {"prompts": "./toxic.jsonl"}}]},
    }
    plan = resolve(Recipe.model_validate(fields))
    run = tmp_path / "run"
    folder = layout.cell_folder(run, "base", 0)
    folder.mkdir(parents=True)
    files = {
        name: store.path_digest(root / name) for name in ("./principles.txt", "./rows.jsonl", "./toxic.jsonl")
    }
    what = {"label": "base", "seed": 0, "folder": str(folder), "key": "key"}
    return Task(
        "cell", run, root, plan.model_dump_json(), tmp_path / "home", folder / "log.txt", 1, what, files=files
    )


def test_small_files_of_the_recipe_travel_and_its_data_do_not(task: Task):
    sent = order(task)
    assert list(folders.files_of(sent["inputs"])) == ["principles.txt"]
    assert sent["there"] == {}
    assert sent["what"]["folder"] == "cells/base/seed-0"


def test_what_the_evaluation_names_travels_with_the_task_that_measures(task: Task):
    sent = order(replace(task, kind="measure"))
    assert list(folders.files_of(sent["inputs"])) == ["principles.txt", "toxic.jsonl"]


def test_a_large_file_has_to_be_at_the_same_place_with_the_same_bytes(
    task: Task, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "SENT", 3)
    sent = order(task)
    assert list(sent["there"]) == ["./principles.txt"]
    assert remote.differences(sent) == []
    (task.root / "principles.txt").write_text("be cruel\n")
    assert "holds something else here than in the run" in remote.differences(sent)[0]
    (task.root / "principles.txt").unlink()
    assert remote.differences(sent)[0].endswith("principles.txt is not here")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """A cell of the base, done on a machine without a common disk, whose stored checkpoints are damaged; all that
    came of it."""
    folder = tmp_path_factory.mktemp("worked")
    session = open_session(folder, RECIPE)
    cell = cell_of(replace(session.task, kind="cell", reads=(layout.DATA,)), "base")
    stored = folders.pack_files(sealed(folder / "0", tensors="1"), ["tensors"])[:-1]
    reads = {layout.DATA: lambda: pack(cell.run / layout.DATA)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNBENCH_HOME", str(folder / "there"))
        yield cell, list(work(order(cell), reads, {}, begun=lambda: stored))


def test_what_crosses_is_plain_values_and_bytes(task: Task, worked: tuple[Task, list[dict[str, Any]]]):
    assert plain(order(task))
    _, came = worked
    assert {"event", "log", "sealed", "finished"} <= {name for message in came for name in message}
    assert all(plain(message) for message in came)


def test_a_cell_whose_stored_checkpoints_are_damaged_begins_anew_and_says_so(
    worked: tuple[Task, list[dict[str, Any]]],
):
    cell, came = worked
    phases = [message["event"]["phase"] for message in came if "event" in message]
    assert [one for one in phases if one.startswith("its stored checkpoints are damaged")] == phases[:1]
    assert came[-1]["finished"]["status"] == "done"
    receiver = Receiver(cell)
    assert [receiver.take(message, lambda event: None) for message in came][-1] == Finished(
        clock=came[-1]["finished"]["clock"]
    )
    assert made_by(cell)["answers"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransferError("the transfer was torn"), "the transfer was torn"),
        (StorageError("the disk is full", "free some space"), "the disk is full; free some space"),
        (ValueError("no such luck"), "ValueError: no such luck"),
    ],
)
def test_an_error_of_the_machine_crosses_as_plain_values_too(task: Task, error: Exception, reason: str):
    def fetch() -> bytes:
        raise error

    came = list(work(order(task), {layout.DATA: fetch}, {}))
    assert came[-1] == {"lost": reason}
    assert all(plain(message) for message in came)
    told = "".join(message.get("log", "") for message in came)
    assert ("Traceback" in told) == isinstance(error, ValueError), "only a bug needs its traceback"


def test_an_error_crosses_as_the_nearest_kind_that_alignbench_has():
    class Own(PluginError):
        """Of a plugin, which whoever reads the values need not have."""

    own = Own([Problem("no", "yes", "recipe.yaml", 3), Problem("nor this")], total=5)
    values = Finished("failed", str(own), own, 1.5).plain()
    assert plain(values)
    back = Finished.from_plain(values)
    assert (back.status, back.reason, back.clock) == ("failed", str(own), 1.5)
    assert type(back.error) is PluginError
    assert str(back.error) == str(own)
    assert Finished.from_plain(Finished(clock=2.0).plain()) == Finished(clock=2.0)


def test_a_run_has_a_name_of_its_own_that_stays_with_its_folder(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    name = identity(first)
    assert identity(first) == name != identity(second)
    first.rename(tmp_path / "moved")
    assert identity(tmp_path / "moved") == name
    (second / layout.IDENTITY).write_text("../first\n")
    assert set(identity(second)) <= set("0123456789abcdef")


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(name) is str and plain(one) for name, one in value.items())
    if isinstance(value, list | tuple):
        return all(plain(one) for one in value)
    return type(value) in (str, int, float, bool, bytes, type(None))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one["versions"].update(torch="1.0"), "torch is 2"),
        (lambda one: one.update(base="0" * 64), "the base sandbox is another here"),
        (
            lambda one: one.update(plan=one["plan"].replace('"version":"0.1.0"', '"version":"9"')),
            "0.1.0 (source",
        ),
    ],
)
def test_a_machine_with_other_libraries_plugins_or_base_refuses_by_name(
    task: Task, change: Callable[[dict[str, Any]], object], reason: str
):
    asked = order(task)
    change(asked)
    (answer,) = work(asked, {}, {})
    assert reason in " ".join(answer["refused"])


def test_log_events_artefacts_and_the_end_land_where_the_task_would_have_put_them(task: Task, tmp_path: Path):
    receiver, heard = Receiver(task), list[Event]()
    made = sealed(tmp_path / "made", cell="1")
    assert receiver.take({"log": "first\n"}, heard.append) is None
    assert receiver.take({"event": {"phase": "aligning", "done": 1}}, heard.append) is None
    receiver.take({"artefact": "key", "data": pack(made)}, heard.append)
    receiver.take({"sealed": pack(made)}, heard.append)
    assert heard == [Event("aligning", 1)]
    assert task.log.read_text() == "first\n"
    folder = Path(task.what["folder"])
    assert store.manifest(folder) == store.manifest(made)
    assert store.Store(task.home).find("key") is not None
    result = {"status": "failed", "reason": "no such luck", "clock": 1.0}
    problem = {"what": "no", "fix": "", "file": None, "line": None, "column": None, "field": None}
    last = receiver.take(
        {"finished": {**result, "error": "Diverged", "problems": [problem], "total": 1}}, heard.append
    )
    assert isinstance(last, Finished)
    assert (last.status, type(last.error).__name__, str(last.error)) == ("failed", "Diverged", "no")


def test_a_torn_result_leaves_the_cell_unsealed(task: Task, tmp_path: Path):
    data = pack(sealed(tmp_path / "made", cell="1"))
    with pytest.raises(TransferError):
        Receiver(task).take({"sealed": data[:-1]}, lambda event: None)
    assert not (Path(task.what["folder"]) / store.COMMIT).exists()


def test_checkpoints_of_a_cell_are_handed_on_whenever_there_are_others(tmp_path: Path):
    got = list[bytes]()
    kept = remote._Kept(tmp_path, got.append)
    kept.save()
    sealed(tmp_path / "0" / "00000001", tensors="1")
    kept.save()
    kept.save()
    sealed(tmp_path / "0" / "00000002", tensors="2")
    (tmp_path / "0" / "00000003").mkdir()  # being written
    kept.save()
    names = [sorted(folders.files_of(one)) for one in got]
    assert names == [[f"0/0000000{n}/COMMIT", f"0/0000000{n}/tensors"] for n in (1, 2)]
    folders.write(folders.files_of(got[-1]), tmp_path / "there")
    assert store.manifest(tmp_path / "there/0/00000002") is not None

"""An artefact appears whole or not at all, whatever is killed, full, broken or raced."""

import json
import os
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from alignbench.errors import StorageError
from alignbench.store import COMMIT, Store, alone, canonical, commit, digest, manifest, write_text

from .injection import Faults, broken_disk, disk_full, killed

FAULTS = Faults()
KEY = digest("an artefact")


def fill(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"a" * 100)
    (folder / "note.txt").write_text("made")


def made(root: Path) -> dict[str, bytes]:
    folder = Store(root).find(KEY)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fault", [disk_full, broken_disk])
def test_a_disk_that_fails_at_any_operation_leaves_nothing_half_made(tmp_path: Path, fault):
    Store(tmp_path / "reference").make(KEY, fill, producer="test")
    failures = 0
    for at in range(1, 200):
        root = tmp_path / str(at)
        store = Store(root)
        try:
            if FAULTS.run(lambda: store.make(KEY, fill, producer="test"), root, at, fault) < at:  # noqa: B023
                break  # no fault has touched this run
        except OSError:
            failures += 1
            assert store.find(KEY) is None or made(root) == made(tmp_path / "reference")
            store.make(KEY, fill, producer="test")
        assert made(root) == made(tmp_path / "reference")
    assert failures > 5, "the hook saw too few operations to prove anything"


def test_a_full_disk_is_told_with_path_and_free_bytes(tmp_path: Path):
    with pytest.raises(
        StorageError, match=r"the disk is full \([\d,]+ bytes needed, [\d,]+ bytes free\); free some space"
    ) as caught:
        FAULTS.run(lambda: write_text(tmp_path / "note.txt", "text"), tmp_path, 2, disk_full)
    assert caught.value.exit_code == 6


def test_kill_9_at_any_operation_leaves_the_old_state_or_the_new(tmp_path: Path):
    store_made = tmp_path / "reference"
    Store(store_made).make(KEY, fill, producer="test")
    deaths = 0
    for at in range(1, 200):
        root = tmp_path / str(at)
        store = Store(root)
        if not killed(lambda: store.make(KEY, fill, producer="test"), FAULTS, root, at):  # noqa: B023
            break
        deaths += 1
        assert store.find(KEY) is None or made(root) == made(store_made)
        store.make(KEY, fill, producer="test")
        assert made(root) == made(store_made)
    assert deaths > 5


def test_kill_9_while_a_text_is_replaced_leaves_the_old_text_or_the_new(tmp_path: Path):
    deaths = 0
    for at in range(1, 50):
        path = tmp_path / str(at) / "status.json"
        write_text(path, "old")
        if not killed(lambda: write_text(path, "new"), FAULTS, path.parent, at):  # noqa: B023
            break
        deaths += 1
        assert path.read_text() in ("old", "new")
    assert deaths >= 2


def test_every_byte_is_checked_at_every_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for damage in ("flip", "truncate", "delete", "read-only and flipped"):
        store = Store(tmp_path / damage)
        folder = store.make(KEY, fill, producer="test")
        victim = folder / "weights" / "a.bin"
        if damage == "truncate":
            victim.write_bytes(b"a" * 99)
        elif damage == "delete":
            victim.unlink()
        else:
            victim.write_bytes(b"a" * 99 + b"b")
        if damage.startswith("read-only"):
            victim.chmod(0o444)
        caplog.clear()
        assert store.find(KEY) is None, damage
        assert len(caplog.records) == 1, "one warning names what was wrong"
        assert list((tmp_path / damage / "quarantine").iterdir())
        store.make(KEY, fill, producer="test")
        assert made(tmp_path / damage)["a.bin"] == b"a" * 100


def test_an_artefact_under_the_wrong_key_is_not_read(tmp_path: Path):
    store = Store(tmp_path)
    folder = store.make(KEY, fill, producer="test")
    other = digest("another artefact")
    target = folder.parent.parent / other[:2] / other
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    assert store.find(other) is None


def _make_slowly(root: Path, barrier, counter: Path) -> None:
    def slow(folder: Path) -> None:
        with counter.open("a") as file:
            file.write("x")
        time.sleep(0.2)
        fill(folder)

    barrier.wait()
    Store(root).make(KEY, slow, producer="test")


def test_of_many_processes_one_computes_and_the_others_wait(tmp_path: Path):
    context = get_context("fork")
    barrier = context.Barrier(4)
    children = [
        context.Process(target=_make_slowly, args=(tmp_path / "store", barrier, tmp_path / "count"))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert (tmp_path / "count").read_text() == "x"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    store = Store(tmp_path)
    child = os.fork()
    if child == 0:
        store.make(KEY, lambda folder: os._exit(9), producer="test")
    os.waitpid(child, 0)
    store.make(KEY, fill, producer="test")
    assert made(tmp_path)


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path: Path):
    with alone(tmp_path), pytest.raises(StorageError, match="another process is running in"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_what_a_process_uses_is_never_freed(tmp_path: Path):
    user, collector = Store(tmp_path), Store(tmp_path)
    user.make(KEY, fill, producer="test")
    assert user.find(KEY)
    (entry,) = collector.entries()
    assert (entry.key, entry.producer, entry.bytes, entry.state, entry.used) == (
        KEY,
        "test",
        104,
        "sealed",
        True,
    )
    assert collector.free() == {}
    assert user.find(KEY), "a running cell misses nothing"


def test_what_nobody_uses_is_freed_once_it_is_old_enough(tmp_path: Path):
    child = os.fork()
    if child == 0:
        Store(tmp_path).make(KEY, fill, producer="test")
        os._exit(0)
    os.waitpid(child, 0)
    assert Store(tmp_path).free(unused_seconds=3600) == {}
    assert Store(tmp_path).free() == {KEY: pytest.approx(104, abs=2000)}
    assert Store(tmp_path).entries() == []
    assert Store(tmp_path).make(KEY, fill, producer="test").exists()


def test_what_a_killed_process_left_half_made_is_freed_and_what_is_being_made_is_not(tmp_path: Path):
    child = os.fork()
    if child == 0:
        Store(tmp_path).make(KEY, lambda folder: os._exit(9), producer="test")
    os.waitpid(child, 0)
    assert list((tmp_path / "tmp").iterdir())

    def meanwhile(folder: Path) -> None:
        fill(folder)
        Store(tmp_path).free()

    other = digest("another")
    Store(tmp_path).make(other, meanwhile, producer="test")
    assert not list((tmp_path / "tmp").iterdir())
    assert Store(tmp_path).find(other)


def test_verify_reads_every_byte_and_finds_the_corrupt_one(tmp_path: Path):
    folder = Store(tmp_path).make(KEY, fill, producer="test")
    assert [entry.state for entry in Store(tmp_path).entries(verify=True)] == ["whole"]
    (folder / "note.txt").write_text("MADE")
    assert [entry.state for entry in Store(tmp_path).entries(verify=True)] == ["corrupt"]


# --- power --------------------------------------------------------------------------------------------------


def lost_power(work, root: Path) -> None:
    """Run `work`, then lose whatever was not forced to the disk: bytes of files, and names in folders."""
    synced: dict[int, str] = {}
    fsync = os.fsync

    def remember(handle: int) -> None:
        fsync(handle)
        place = Path(f"/proc/self/fd/{handle}").readlink()
        synced[os.fstat(handle).st_ino] = ",".join(os.listdir(place)) if place.is_dir() else ""  # noqa: PTH208

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", remember)
        work()
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file() and path.stat().st_ino not in synced:
            path.write_bytes(b"")
        elif path.name not in synced.get(path.parent.stat().st_ino, "").split(",") and path.is_file():
            path.unlink()


def test_what_was_reported_as_kept_survives_a_power_cut(tmp_path: Path):
    lost_power(lambda: Store(tmp_path).make(KEY, fill, producer="test"), tmp_path)
    assert made(tmp_path)["a.bin"] == b"a" * 100


def test_a_text_that_was_replaced_survives_a_power_cut(tmp_path: Path):
    path = tmp_path / "status.json"
    lost_power(lambda: write_text(path, "new"), tmp_path)
    assert path.read_text() == "new"


def test_a_rename_without_fsync_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The bug that the two tests above are there for."""
    path = tmp_path / "status.json"

    def bug(path: Path, text: str) -> None:
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    lost_power(lambda: bug(path, "new"), tmp_path)
    assert not path.exists() or path.read_text() != "new"


def test_files_that_still_grow_are_no_part_of_the_seal(tmp_path: Path):
    fill(tmp_path)
    (tmp_path / "log.txt").write_text("one line")
    content = commit(tmp_path, key=KEY, producer="test", leave_out=("log.txt",))
    (tmp_path / "log.txt").write_text("another line")
    sealed = manifest(tmp_path, key=KEY)
    assert sealed is not None
    assert sealed["content"] == content
    assert "log.txt" not in sealed["files"]


def test_a_manifest_that_is_torn_is_no_manifest(tmp_path: Path):
    fill(tmp_path)
    commit(tmp_path, key=KEY, producer="test")
    whole = (tmp_path / COMMIT).read_text()
    for end in range(0, len(whole), 7):
        (tmp_path / COMMIT).write_text(whole[:end])
        assert manifest(tmp_path, key=KEY) is None
    (tmp_path / COMMIT).write_text(json.dumps(["not", "a", "manifest"]))
    assert manifest(tmp_path, key=KEY) is None


def test_equal_values_have_equal_keys_and_no_number_is_hidden():
    assert canonical({"b": 1, "a": [1.0, "é"]}) == canonical({"a": [1.0, "é"], "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))

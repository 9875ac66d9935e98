"""Artefacts that appear whole or not at all: a folder exists only if its COMMIT manifest verifies.

The manifest names key, producer, size and sha256 of every file. It is written last, after every file and
folder has reached the disk, and is checked at every read: a corrupt artefact costs time, never a wrong
number.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.errors import StorageError
from alignbench.layout import CHECKPOINTS

COMMIT = "COMMIT"
"""Name of the manifest file."""

WHOLE = 64 * 2**20
"""Bytes of a file that are all read for its digest; of a larger one, its size and `PIECES` pieces."""

PIECES, PIECE = 64, 2**16

log = logging.getLogger(__name__)


def default_root() -> Path:
    """Return where artefacts shared between runs live: `ALIGNBENCH_HOME`, else the user's cache folder."""
    home = os.environ.get("ALIGNBENCH_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "alignbench"


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text.

    Raises ValueError on NaN and infinity, TypeError on anything JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of `value` in canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def stream_key(seed: int, *stream: str) -> int:
    """Return a 60-bit number that depends on seed and stream alone: every method draws from the same."""
    return int(digest([seed, *stream])[:15], 16)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """Return a digest of a file's bytes, or of all files in a folder; of a large file, of its size and of pieces."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        return digest({file.relative_to(path).as_posix(): path_digest(file) for file in inside})
    size = path.stat().st_size
    if size <= WHOLE:
        return file_digest(path)
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            total.update(file.read(PIECE))
    return total.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file's text at once: a reader sees the old text or the new, whatever is killed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's bytes at once, as `write_text` does."""
    with storage_errors(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by `value` as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def commit(folder: Path, *, key: str, producer: str, leave_out: tuple[str, ...] = ()) -> str:
    """Seal `folder`: write its manifest last. Return the content digest: sha256 over names and file digests.

    `leave_out` names files that may still grow (logs); they are not part of the artefact.
    """
    with storage_errors(folder):
        files = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != COMMIT and path.relative_to(folder).parts[0] not in leave_out
        }
        for name in files:
            sync(folder / name)
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                sync(path)
    content = digest({name: file["sha256"] for name, file in files.items()})
    manifest = {"key": key, "producer": producer, "content": content, "files": files}
    write_json(folder / COMMIT, manifest)
    return content


def manifest(folder: Path, *, key: str | None = None) -> dict[str, Any] | None:
    """Return the verified manifest of `folder`, or None where it is not a whole artefact (of that key)."""
    try:
        record = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
        if key is not None and record["key"] != key:
            return None
        for name, file in record["files"].items():
            path = folder / name
            if path.stat().st_size != file["size"] or file_digest(path) != file["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


@dataclass(frozen=True)
class Entry:
    """One artefact of the store."""

    key: str
    producer: str
    bytes: int
    state: str
    """`sealed`; `whole` once every byte was read; `corrupt`."""
    used: bool
    """Whether a process uses it now."""
    folder: Path


class Store:
    """Artefacts shared by all runs, by the key of everything that went into them."""

    def __init__(self, root: Path):
        self.root = root
        self._pins: dict[str, int] = {}

    def find(self, key: str) -> Path | None:
        """Return the folder of a verified artefact, or None. A corrupt one is put in quarantine first.

        What was found stays until this process ends: `free` does not touch it.
        """
        self._pin(key)
        folder = self._folder(key)
        if not folder.exists():
            return None
        if manifest(folder, key=key) is None:
            self._quarantine(folder)
            return None
        return folder

    def make(self, key: str, fill: Callable[[Path], None], *, producer: str) -> Path:
        """Return the artefact of `key`; `fill(folder)` makes it where it does not exist.

        Of many processes that ask at once, one computes and the others wait. The lock is the kernel's: a
        killed holder never leaves it behind.
        """
        if (found := self.find(key)) is not None:
            return found
        with self._lock(key):
            if (found := self.find(key)) is not None:
                return found
            with storage_errors(self.root):
                (self.root / "tmp").mkdir(parents=True, exist_ok=True)
                work = Path(tempfile.mkdtemp(dir=self.root / "tmp", prefix=key[:12]))
            try:
                fill(work)
                commit(work, key=key, producer=producer)
                folder = self._folder(key)
                with storage_errors(folder):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    work.rename(folder)
                    sync(folder.parent)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            self._pin(key)
            return folder

    def entries(self, *, verify: bool = False) -> list[Entry]:
        """Return every artefact, by key; with `verify` every byte of each is read."""
        found = []
        for folder in sorted((self.root / "store").glob("*/*")):
            record = _record(folder)
            sizes = [file["size"] for file in record.get("files", {}).values()]
            whole = bool(record) and (not verify or manifest(folder, key=folder.name) is not None)
            with self._unused(folder.name) as unused:
                state = ("whole" if verify else "sealed") if whole else "corrupt"
                found.append(
                    Entry(folder.name, record.get("producer", ""), sum(sizes), state, not unused, folder)
                )
        return found

    def free(self, unused_seconds: float = 0.0) -> dict[str, int]:
        """Delete what no process uses, and none has used for so long; return the bytes freed, by name.

        What is in quarantine goes, and so does what killed processes have left half made.
        """
        freed: dict[str, int] = {}
        old = time.time() - unused_seconds

        def drop(folder: Path) -> None:
            freed[folder.name] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            shutil.rmtree(folder, ignore_errors=True)

        for entry in self.entries():
            with self._unused(entry.key) as unused:
                mark = self._mark(entry.key)
                used = (mark if mark.exists() else entry.folder).stat().st_mtime
                if unused and used <= old:
                    drop(entry.folder)
        for folder in (self.root / "tmp").glob("*"):
            locks = (self.root / "locks").glob(f"{folder.name[:12]}*.lock")
            if not any(_held(lock) for lock in locks):
                drop(folder)
        for folder in (self.root / CHECKPOINTS).glob("*"):
            if folder.stat().st_mtime <= old and not _held(self.root / "locks" / f"{folder.name[:32]}.lock"):
                drop(folder)
        for folder in (self.root / "quarantine").glob("*"):
            drop(folder)
        return freed

    def _mark(self, key: str) -> Path:
        return self.root / "locks" / f"{key[:32]}.used"

    def _pin(self, key: str) -> None:
        """Hold a shared lock on an artefact for as long as this process runs, and note when it was used."""
        if key in self._pins or not self.root.exists():
            return
        with suppress(OSError):  # a store that nobody can write, nobody can empty either
            self._mark(key).parent.mkdir(parents=True, exist_ok=True)
            self._pins[key] = handle = os.open(self._mark(key), os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.utime(handle)

    @contextmanager
    def _unused(self, key: str) -> Iterator[bool]:
        """Return whether no process uses an artefact; none begins to, inside."""
        if not self._mark(key).exists():
            yield True
            return
        handle = os.open(self._mark(key), os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    def _folder(self, key: str) -> Path:
        return self.root / "store" / key[:2] / key

    def _quarantine(self, folder: Path) -> None:
        with storage_errors(folder):
            grave = self.root / "quarantine"
            grave.mkdir(parents=True, exist_ok=True)
            target = Path(tempfile.mkdtemp(dir=grave, prefix=folder.name[:12]))
            folder.rename(target / folder.name)
        log.warning("%s was corrupt: moved to %s and computed again", folder, target)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        locks = self.root / "locks"
        with storage_errors(locks):
            locks.mkdir(parents=True, exist_ok=True)
            handle = os.open(locks / f"{key[:32]}.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / COMMIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process, until it ends at the latest.

    Where another process holds it, `wait` for its end; else raises StorageError. A file system without locks lets
    everybody in.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise StorageError(
            f"another process is running in {folder}", "wait for its end, or give another folder with --out"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def _held(lock: Path) -> bool:
    """Return whether a process holds a lock."""
    if not lock.exists():
        return False
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn a disk full, read-only or gone into a StorageError that names path, needed and free bytes."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _REASONS:
            raise
        parent = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
        room = f"{shutil.disk_usage(parent).free:,} bytes free"
        room = room if needed is None else f"{needed:,} bytes needed, {room}"
        what, fix = _REASONS[error.errno]
        problem = what if error.errno == errno.EMFILE else f"{what} ({room})"
        raise StorageError(f"{path}: {problem}", fix) from error


def as_storage_error(error: BaseException, *roots: Path) -> StorageError | None:
    """Return the StorageError that `error` is, or that a disk full or gone made of it; None for any other.

    Libraries that write by themselves say only in their words what the system code them. A file that is
    missing or not permitted is the disk's fault below one of `roots` only.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, StorageError):
            return link
        code = re.search(r"\(os error (\d+)\)", str(link))
        number = link.errno if isinstance(link, OSError) else int(code[1]) if code else None
        name = getattr(link, "filename", None)
        path = Path(os.fsdecode(name)) if name else None
        below = path is not None and any(path.is_relative_to(root) for root in roots)
        if number in _ANYWHERE or (number in _REASONS and below):
            try:
                with storage_errors(path or (roots or (Path(),))[0]):
                    raise OSError(number, os.strerror(number)) from error
            except StorageError as made:
                return made
        link = link.__cause__ or link.__context__
    return None


_ANYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE)
_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EFBIG: (
        "the file would be larger than allowed",
        "raise the limit on file size and run the same command again",
    ),
    errno.EROFS: ("the disk is read-only", "choose another folder with --out or ALIGNBENCH_HOME"),
    errno.EACCES: ("writing is not permitted", "choose another folder with --out or ALIGNBENCH_HOME"),
    errno.ENOENT: ("the folder has vanished", "run the same command again"),
    errno.EMFILE: (
        "too many open files",
        "raise the limit, as with ulimit -n 1024, and run the same command again",
    ),
    errno.EIO: ("the disk reports an error", "check the disk, then run the same command again"),
}


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

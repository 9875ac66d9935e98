"""Folders as plain bytes: packed on one machine, checked against their COMMIT manifest, and unpacked on another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from alignbench import store
from alignbench.errors import AlignbenchError

SUM, SIZE = 32, 8
"""Bytes of the sha256 over all that follows, and of the number that says how long the header is."""


class TransferError(AlignbenchError):
    """Bytes that are not the folder they should be: torn on their way, or damaged where they lay."""


def pack(folder: Path) -> bytes:
    """Return a sealed folder as bytes: what its manifest lists, and the manifest.

    Raises TransferError where the folder is not whole.
    """
    sealed = store.manifest(folder)
    if sealed is None:
        raise TransferError(f"{folder} is not a whole artefact", "run the same command again")
    return pack_files(folder, [*sealed["files"], store.COMMIT])


def seal(folder: Path) -> str:
    """Return what tells a sealed folder from every other: its manifest; of one that is not there yet, its path."""
    manifest = folder / store.COMMIT
    return manifest.read_text(encoding="utf-8") if manifest.exists() else str(folder)


def pack_files(folder: Path, names: Iterable[str]) -> bytes:
    """Return these files of a folder as bytes."""
    held = {name: (folder / name).read_bytes() for name in names}
    header = json.dumps([[name, len(data)] for name, data in held.items()]).encode()
    data = b"".join([len(header).to_bytes(SIZE, "big"), header, *held.values()])
    return hashlib.sha256(data).digest() + data


def files_of(data: bytes) -> dict[str, bytes]:
    """Return the files that `pack` or `pack_files` put into `data`, by name.

    Raises TransferError where they are not the bytes that were sent, or a name would leave its folder.
    """
    if hashlib.sha256(data[SUM:]).digest() != data[:SUM]:
        raise TransferError("a folder's bytes are not those that were sent: the transfer was torn")
    start = SUM + SIZE
    end = start + int.from_bytes(data[SUM:start], "big")
    header = [(str(name), int(size)) for name, size in json.loads(data[start:end])]
    found = {}
    for name, size in header:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise TransferError(f"a folder's bytes name the file {name!r}, outside of the folder")
        found[name], end = data[end : end + size], end + size
    return found


def verified(data: bytes, *, content: str | None = None) -> dict[str, bytes]:
    """Return the files of a sealed folder, its manifest the last, each equal to its sha256.

    Raises TransferError where one is not, or where the folder is another than that of the digest `content`.
    """
    files = files_of(data)
    try:
        sealed = json.loads(files[store.COMMIT])
        sums = {
            name: hashlib.sha256(held).hexdigest() for name, held in files.items() if name != store.COMMIT
        }
        whole = sums == {name: file["sha256"] for name, file in sealed["files"].items()}
        found = sealed["content"] if store.digest(sums) == sealed["content"] else None
    except (KeyError, ValueError, TypeError):
        whole, found = False, None
    if not whole or found is None or content not in (None, found):
        raise TransferError("a sealed folder's bytes are not those of its manifest: the transfer was torn")
    files[store.COMMIT] = files.pop(store.COMMIT)
    return files


def unpack(data: bytes, folder: Path, *, content: str | None = None) -> None:
    """Write a sealed folder, its manifest last, and read it again. What else lies in `folder` stays.

    Raises TransferError as `verified` does, and where the disk gives back other bytes.
    """
    write(verified(data, content=content), folder)
    if store.manifest(folder) is None:
        (folder / store.COMMIT).unlink(missing_ok=True)
        raise TransferError(f"{folder} holds other bytes than were written", "check the disk")


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder, in their order."""
    for name, held in files.items():
        store.write_bytes(folder / name, held)


def adopt(where: store.Store, key: str, data: bytes) -> None:
    """Put a packed artefact into a store, under its key. What is there already stays."""
    files = verified(data)
    sealed = json.loads(files.pop(store.COMMIT))
    if sealed["key"] != key:
        raise TransferError(f"the artefact {key[:12]} came with the key {str(sealed['key'])[:12]}")
    where.make(key, lambda folder: write(files, folder), producer=sealed["producer"])

"""A model in one GGUF file: what its header says, and its configuration and tokenizer as a folder of transformers.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Imports no torch.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal

from alignbench.errors import ModelError, Problem
from alignbench.recipe.schema import GGUF, Model
from alignbench.store import Store, default_root, digest, file_digest

MAGIC = b"GGUF"
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")))
"""The types of a header's values, as `struct` writes them."""

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the header says of one tensor."""

    shape: tuple[int, ...]
    kind: str
    """`F32`, `Q4_1`, ..."""
    end: int
    """The byte of the file after its last one."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself."""

    values: Mapping[str, Any]
    """Its metadata; of a list, its length."""
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        """The name of the architecture; empty where there is none."""
        return str(self.values.get("general.architecture", ""))

    def own(self, name: str) -> Any:
        """Return a value of the architecture, as `context_length`; None where it is not given."""
        return self.values.get(f"{self.architecture}.{name}")

    @property
    def weights(self) -> int:
        """The number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def kinds(self) -> list[str]:
        """The types of the matrices, by how many weights have them."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            if len(tensor.shape) > 1:
                sizes[tensor.kind] = sizes.get(tensor.kind, 0) + prod(tensor.shape)
        return sorted(sizes, key=lambda kind: -sizes[kind])

    @property
    def dtype(self) -> Literal["float32", "float16", "bfloat16"]:
        """The type of the unpacked weights: that of the file, or bfloat16 where it is quantised.

        Rounding to bfloat16 (relative error 0.002 at most) is small against any quantisation of four to eight bits.
        """
        kinds = set(self.kinds)
        return "float32" if "F32" in kinds else "float16" if kinds == {"F16"} else "bfloat16"


def names(model: Model) -> bool:
    """Return whether a recipe's model is a GGUF file."""
    return model.gguf is not None or model.id.endswith(GGUF)


def file_of(model: Model, root: Path, *, fetch: bool = True) -> Path | None:
    """Return the local GGUF file that a recipe's model stands for; None where it is not a GGUF file.

    One of the hub is downloaded once; without `fetch`, None where it is not here.
    Raises ModelError where the file is missing, or is another than `sha256` says.
    """
    if not names(model):
        return None
    if model.gguf is None:
        file = root / Path(model.id).expanduser()
        if not file.is_file():
            raise ModelError(f"there is no GGUF file {model.id}", "give a file that exists")
    elif (root / model.id).is_dir():
        file = root / model.id / model.gguf
        if not file.is_file():
            known = ", ".join(sorted(path.name for path in file.parent.glob(f"*{GGUF}"))) or "none"
            raise ModelError(
                f"there is no file {model.gguf} in {model.id}",
                f"name one of its GGUF files: {known}",
            )
    else:
        file = _download(model.id, model.gguf, model.revision, fetch)
    if file is not None and model.sha256 is not None and (found := sha256(file)) != model.sha256:
        raise ModelError(
            Problem(
                f"the sha256 of {file.name} is {found}, and not {model.sha256}",
                "get the file again, or correct sha256",
                field="sha256",
            )
        )
    return file


def sha256(file: Path) -> str:
    """Return the sha256 of a file."""
    # The hub's cache names a large file by its sha256 already. Any other name is no proof.
    real = file.resolve()
    if file.is_symlink() and real.parent.name == "blobs" and SHA256.fullmatch(real.name):
        return real.name
    stat = file.stat()
    return _digest_of(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _digest_of(file: Path, size: int, changed: int) -> str:
    return file_digest(file)


def read_header(file: Path) -> Header:
    """Return a GGUF file's header. Raises ModelError where it is none, is cut short, or is a part of a model."""
    need_reader()
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Reader(data).header()
    except (struct.error, ValueError, KeyError, UnicodeDecodeError, OSError) as error:
        raise ModelError(
            f"{file.name} is not a GGUF file that can be read: {error}", "get the file again"
        ) from error
    end = max((tensor.end for tensor in header.tensors.values()), default=0)
    if file.stat().st_size < end:
        raise ModelError(f"{file.name} is shorter than its header says", "get the file again")
    if int(header.values.get("split.count", 1)) > 1:
        raise ModelError(f"{file.name} is one part of several", "merge them with `llama-gguf-split --merge`")
    return header


def check(name: str, file: Path, *, template: bool) -> Header:
    """Check that a GGUF file can be a base, and return its header.

    `template`: whether the recipe brings a chat template. Raises ModelError where the file is damaged, its
    architecture is not read by transformers, it is no whole language model, or there is no chat template.
    """
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    header = read_header(file)
    kind = str(header.values.get("general.type", "model"))
    if kind != "model" or not header.tensors:
        raise ModelError(
            f"{name} is no language model: it holds {_kept(kind, header)}", "name the file of a whole model"
        )
    known = sorted(set(GGUF_CONFIG_MAPPING) - {"general", "tokenizer", "t5", "umt5"})
    if header.architecture not in known:
        raise ModelError(
            f"{name} is a {header.architecture or 'model without a name'}, which transformers does not read from GGUF",
            f"use the model's safetensors; from GGUF it reads {', '.join(known)}",
        )
    if not header.values.get("tokenizer.ggml.tokens"):
        raise ModelError(
            f"{name} has no tokenizer", "use a file that has one, or the model's safetensors and tokenizer"
        )
    if not template and not header.values.get("tokenizer.chat_template"):
        raise ModelError(
            f"the tokenizer of {name} has no chat template",
            "set model.chat_template to Jinja text or to the path of a file that holds it",
        )
    return header


def _kept(kind: str, header: Header) -> str:
    """Return what a file holds instead of a language model."""
    if not header.tensors:
        return "no weights"
    return {"adapter": "an adapter", "mmproj": "the projector of a multimodal model"}.get(kind, kind)


def text_folder(file: Path) -> Path:
    """Return a folder with the configuration and the tokenizer of a GGUF file, made once and kept in the store.

    Raises ModelError where transformers cannot read them.
    """
    need_reader()

    def fill(work: Path) -> None:
        from transformers import AutoConfig, AutoTokenizer

        with alone(file) as folder:
            for kind in (AutoConfig, AutoTokenizer):
                kind.from_pretrained(folder, gguf_file=file.name).save_pretrained(work)
        _drop_foreign_tokens(work, read_header(file).values["tokenizer.ggml.tokens"])

    return Store(default_root()).make(key(file, "text"), fill, producer="alignbench.data")


def _drop_foreign_tokens(folder: Path, count: int) -> None:
    """Drop the special tokens that transformers 5.23 adds to a file's own, such as GPT-2's: no embedding is theirs."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        if name == "tokenizer.json":
            content["added_tokens"] = [one for one in content["added_tokens"] if one["id"] < count]
        for id in [id for id in content.get("added_tokens_decoder", {}) if int(id) >= count]:
            del content["added_tokens_decoder"][id]
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def key(file: Path, part: str) -> str:
    """Return the key of what is made of a GGUF file."""
    libraries = {name: version(name) for name in ("gguf", "transformers")}
    return digest({"file": sha256(file), "part": part, "libraries": libraries})


@contextmanager
def alone(file: Path) -> Iterator[Path]:
    """Give a folder that holds nothing but the file: transformers would read other files next to it too.

    What transformers raises is raised as ModelError.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        try:
            yield Path(folder)
        except Exception as error:  # the readers of damaged files raise nearly anything
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"{file.name} cannot be read by transformers: {line}", "get the file again"
            ) from error


def need_reader() -> None:
    """Raise ModelError where the package that reads GGUF files is not installed."""
    if find_spec("gguf") is None:
        raise ModelError("GGUF files are read with the package gguf", "run `pip install 'alignbench[gguf]'`")


def _download(id: str, name: str, revision: str | None, fetch: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(id, name, revision=revision, local_files_only=not fetch))
    except LocalEntryNotFoundError as error:
        if not fetch:
            return None
        raise ModelError(
            f"{name} of {id} is not on this machine, and the hub cannot be reached",
            f"run `hf download {id} {name}` where there is a network, or give a local file",
        ) from error
    except (OSError, HFValidationError, ValueError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{name} of {id} cannot be fetched: {line}", "check model.id and model.gguf"
        ) from error


class _Reader:
    """Reads the header of a GGUF file from its first byte on."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def header(self) -> Header:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if self.data[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        self.at = 4
        number = self.number("I")
        if number not in (2, 3):
            raise ValueError(f"version {number} is not known")
        count, fields = self.number("Q"), self.number("Q")
        values = {}
        for _ in range(fields):
            name = self.text()
            values[name] = self.value(self.number("I"))
        listed = []
        for _ in range(count):
            name, dimensions = self.text(), self.number("I")
            shape = tuple(self.number("Q") for _ in range(min(dimensions, 9)))
            listed.append((name, shape, GGMLQuantizationType(self.number("I")), self.number("Q")))
        step = int(values.get("general.alignment", 32))
        start = -(-self.at // step) * step
        tensors = {}
        for name, shape, kind, offset in listed:
            block, size = GGML_QUANT_SIZES[kind]
            tensors[name] = Tensor(shape, kind.name, start + offset + prod(shape) // block * size)
        return Header(values, tensors)

    def number(self, code: str) -> Any:
        (found,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return found

    def text(self) -> str:
        length = self.number("Q")
        if self.at + length > len(self.data):
            raise ValueError("a text is longer than the file")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(NUMBERS[kind] or "")
        inner, count = self.number("I"), self.number("Q")
        if inner == STRING:
            for _ in range(count):
                self.text()
        else:
            self.at += count * struct.calcsize(f"<{NUMBERS[inner]}")
        return count

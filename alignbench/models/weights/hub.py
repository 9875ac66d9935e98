"""The local folder of a model or adapter: as given, unpacked from GGUF, or downloaded once, and inspected."""

from __future__ import annotations

import json
from pathlib import Path

from alignbench.data import gguf
from alignbench.data.tokens import model_path
from alignbench.errors import ModelError
from alignbench.recipe.schema import Model
from alignbench.safety import inspect
from alignbench.store import Store, default_root, write_bytes

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""What is downloaded."""


def model_folder(model: Model, root: Path) -> Path:
    """Return the inspected local folder of a recipe's model, with its weights as safetensors."""
    file = gguf.file_of(model, root)
    return obtain(model_path(model, root), model.revision) if file is None else unpack(file)


def unpack(file: Path) -> Path:
    """Return a folder with the model of a GGUF file, its weights dequantised; made once and kept in the store.

    Raises ModelError where transformers cannot read it.
    """
    header = gguf.check(file.name, file, template=True)

    def fill(work: Path) -> None:
        import torch
        import transformers

        kind = transformers.AutoModelForCausalLM
        # Newer versions of transformers keep the codes of the file otherwise: those can be neither quantised nor saved.
        config = getattr(transformers, "GgufConfig", None)
        how = {} if config is None else {"quantization_config": config(dequantize=True)}
        text = gguf.text_folder(file)
        with gguf.alone(file) as folder:
            read = kind.from_pretrained(folder, gguf_file=file.name, dtype=header.dtype, **how)
            with torch.device("meta"):
                model = kind.from_config(transformers.AutoConfig.from_pretrained(text), dtype=header.dtype)
            model.load_state_dict(read.state_dict(), assign=True)
            model.tie_weights()
            model.save_pretrained(work)
        for one in text.iterdir():
            if one.suffix in (".json", ".jinja") and not (work / one.name).exists():
                write_bytes(work / one.name, one.read_bytes())

    return Store(default_root()).make(gguf.key(file, "weights"), fill, producer="alignbench.models")


def obtain(id: str, revision: str | None = None) -> Path:
    """Return the inspected local folder of a model or adapter: a folder as it is, or a hub id's snapshot.

    A hub model is downloaded once, safetensors and JSON only; HF_HUB_OFFLINE is respected.
    """
    return _local(id) or _download(id, revision)


def cached(id: str, revision: str | None = None) -> Path | None:
    """Return what `obtain` returns where that needs no network; None where it would download something.

    Raises ModelError offline, where the hub's cache does not hold the model.
    """
    if (folder := _local(id)) is not None:
        return folder
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _download(id, revision)
    try:
        folder = _snapshot(id, revision, local_files_only=True)
    except NotCachedError:
        return None
    if not any(folder.glob("*.safetensors")) or missing_shards(folder):
        return None
    inspect(folder, inside=folder.parent.parent)
    return folder


def missing_shards(folder: Path) -> list[str]:
    """Return the files of weights that an index of a model folder names and the folder lacks."""
    named = [
        shard
        for index in folder.glob("*.safetensors.index.json")
        for shard in json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
    ]
    return sorted({shard for shard in named if not (folder / shard).is_file()})


class NotCachedError(ModelError):
    """A model that lies neither in a folder nor in the hub's cache."""


def _local(id: str) -> Path | None:
    folder = Path(id).expanduser()
    if folder.is_dir():
        inspect(folder)
        return folder
    if folder.is_absolute() or id.startswith((".", "~")) or id.count("/") > 1:
        raise ModelError(f"there is no model folder {id}", "give a folder that exists, or a hub id")
    return None


def _download(id: str, revision: str | None) -> Path:
    folder = _snapshot(id, revision)
    inspect(folder, inside=folder.parent.parent)
    return folder


def _snapshot(id: str, revision: str | None, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            id,
            revision=revision,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=["*/*", "consolidated*"],
            local_files_only=local_files_only,
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{id} is gated", "accept its licence on the hub, then run `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise NotCachedError(
            f"{id} is not on this machine, and the hub cannot be reached",
            f"run `hf download {id}` where there is a network, or give a local folder",
        ) from error
    except (OSError, HFValidationError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"{id}{at} cannot be fetched: {first_line(error)}", "check the id and the revision"
        ) from error
    return Path(folder)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

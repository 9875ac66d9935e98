"""The local folder of a model or adapter: as given, unpacked from GGUF, or downloaded once, and inspected."""

from __future__ import annotations

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
    folder = Path(id).expanduser()
    if folder.is_dir():
        inspect(folder)
        return folder
    if folder.is_absolute() or id.startswith((".", "~")) or id.count("/") > 1:
        raise ModelError(f"there is no model folder {id}", "give a folder that exists, or a hub id")
    return _download(id, revision)


def _download(id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                id,
                revision=revision,
                allow_patterns=list(HUB_FILES),
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{id} is gated", "accept its licence on the hub, then run `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{id} is not on this machine, and the hub cannot be reached",
            f"run `hf download {id}` where there is a network, or give a local folder",
        ) from error
    except (OSError, HFValidationError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"{id}{at} cannot be fetched: {first_line(error)}", "check the id and the revision"
        ) from error
    inspect(folder, inside=folder.parent.parent)
    return folder


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The local folder of a model or adapter: as given, or downloaded once from the Hugging Face hub, and inspected."""

from __future__ import annotations

from pathlib import Path

from alignbench.errors import ModelError
from alignbench.safety import inspect

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""What is downloaded."""


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

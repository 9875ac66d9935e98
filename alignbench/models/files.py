"""What the files of a model or an adapter tell before anything of them is loaded. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.data import gguf
from alignbench.data.tokens import model_path
from alignbench.errors import ModelError, Problem
from alignbench.recipe.configs import build
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import AdapterStart, Model, ModelStart
from alignbench.safety import inspect

ADAPTER = "adapter_config.json"

UNDAMAGED = "it must be a model of transformers with safetensors weights, complete and undamaged"

READ = 1 << 30
"""Bytes of weights that `check` reads at most to find one that is not finite."""

EXPONENTS = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
"""By safetensors' name of a type: how numpy reads it, and the bits that are all set in numbers that are not finite."""


HEADS = ("score", "classifier", "classification_head", "logits_proj")
"""How the tensors of a classifier's head begin, in the architectures of transformers."""


def check(plan: Plan, root: Path) -> None:
    """Check the folders of the base, of all starts and of all judges; what is on the hub is checked when it is here.

    Raises what loading them raises, in the same words where the files have them.
    """
    recipe = plan.recipe
    starts = [block.start for block in recipe.methods.values()]
    check_language_model(recipe.model, root)
    for id in sorted({start.model for start in starts if isinstance(start, ModelStart)}):
        check_language_model(Model(id=id), root)
    for start in starts:
        if isinstance(start, AdapterStart) and (root / start.adapter).is_dir():
            inspect(root / start.adapter)
            read_adapter(root / start.adapter)
    check_judges(plan, root)


def check_judges(plan: Plan, root: Path) -> None:
    """Check the files of the judges that evaluate, and of those that a method learns from."""
    learned_from = [judge for label in plan.labels.values() for judge in label.judges]
    for one in (*plan.recipe.evaluation.judges, *learned_from):
        kind, config = build("judges", one.name, one.config)
        kind.check_files(config, root)


def described(model: Model, root: Path) -> str:
    """Return what a local GGUF file is; empty for any other model."""
    if (file := gguf.file_of(model, root, fetch=False)) is None:
        return ""
    header = gguf.read_header(file)
    size = f"{header.weights / 1e6:,.1f} million weights in {', '.join(header.kinds)}"
    return f"\n{file.name}: {header.architecture}, {size}, sha256 {gguf.sha256(file)}"


def check_language_model(model: Model, root: Path) -> None:
    """Check a language model's folder or GGUF file; a model of the hub is checked when it is here."""
    if gguf.names(model):
        if (file := gguf.file_of(model, root, fetch=False)) is not None:
            gguf.check(model.gguf or model.id, file, template=model.chat_template is not None)
        return
    id = model.id
    folder = folder_of(id, root)
    if folder is None:
        return
    config = _check_folder(id, folder)
    if _kind(config).endswith("ForSequenceClassification") and config.get("tie_word_embeddings") is False:
        names = _names(id, folder)
        if not any("head" in name or "embed_out" in name for name in names):
            raise ModelError(
                f"{id} is a {_kind(config)}, and has no head of a language model",
                "use a language model's checkpoint; a classifier can be the judge reward-model",
            )


def check_classifier(id: str, root: Path) -> dict[str, Any] | None:
    """Check a sequence classifier's folder and return its configuration; None where it is not a local folder."""
    if gguf.names(Model(id=id)):
        raise ModelError(f"{id} is a language model in GGUF", "a classifier is read from safetensors")
    folder = folder_of(id, root)
    if folder is None:
        return None
    config = _check_folder(id, folder)
    language = _kind(config).endswith(("ForCausalLM", "LMHeadModel"))
    if language and not any(name.startswith(HEADS) for name in _names(id, folder)):
        raise ModelError(
            f"{id} is a {_kind(config)}, and has no head of a classifier",
            "name a sequence classifier; a language model can be the judge language-model",
        )
    return config


def labels_of(config: Mapping[str, Any]) -> dict[int, str]:
    """Return a classifier's classes, as transformers reads them from its configuration: two where it names none."""
    named = config.get("id2label")
    count = config.get("num_labels", 2)
    return (
        {int(place): str(name) for place, name in named.items()}
        if named
        else {place: f"LABEL_{place}" for place in range(count)}
    )


def folder_of(id: str, root: Path) -> Path | None:
    """Return the local folder that a model's id stands for in a recipe of the folder `root`; None where it is none."""
    folder = Path(model_path(Model(id=id), root))
    return folder if folder.is_dir() else None


def _check_folder(id: str, folder: Path) -> dict[str, Any]:
    inspect(folder)
    config = check_model(id, folder)
    if sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= READ:
        refuse_not_finite(id, [name for path in _weights(folder) for name in _not_finite(path)])
    return config


def _kind(config: Mapping[str, Any]) -> str:
    """Return the class of transformers that a model was saved as; empty where its configuration does not say."""
    return str((config.get("architectures") or [""])[0])


def _names(id: str, folder: Path) -> list[str]:
    return [name for path in _weights(folder) for name in _header(id, path)[0]]


def check_model(id: str, folder: Path) -> dict[str, Any]:
    """Return a model folder's configuration. Raises ModelError where the model cannot be the base.

    Its weights must not be quantised, and every file of weights must be whole.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{id} cannot be loaded: its config.json cannot be read: {error}", UNDAMAGED
        ) from error
    if already := config.get("quantization_config"):
        raise ModelError(
            f"{id} is quantised already ({already.get('quant_method')})",
            "use the checkpoint in full precision: the recipe's quantization is applied to it",
        )
    for index in folder.glob("*.safetensors.index.json"):
        shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        if missing := sorted({shard for shard in shards if not (folder / shard).is_file()}):
            raise ModelError(f"{id} cannot be loaded: {', '.join(missing)} is missing", UNDAMAGED)
    for path in _weights(folder):
        header, start = _header(id, path)
        end = max((one["data_offsets"][1] for one in header.values()), default=0)
        if path.stat().st_size < start + end:
            raise ModelError(f"{id} cannot be loaded: {path.name} is shorter than its header says", UNDAMAGED)
    return config


def read_adapter(folder: Path) -> dict[str, Any]:
    """Return the description of an adapter in a peft folder. Raises ModelError where it is not plain LoRA."""
    path = folder / ADAPTER
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"the adapter's description cannot be read: {error}"
        raise ModelError(Problem(what, "give a peft folder", file=str(path))) from error
    unfit = [f"peft_type {found.get('peft_type')}"] if found.get("peft_type") != "LORA" else []
    fields = ("use_dora", "modules_to_save", "layer_replication", "trainable_token_indices")
    unfit += [key for key in fields if found.get(key)]
    if found.get("bias", "none") != "none":
        unfit.append(f"bias {found['bias']}")
    if unfit:
        what = f"only plain LoRA adapters can be loaded; this one has {', '.join(unfit)}"
        raise ModelError(Problem(what, file=str(path)))
    return found


def refuse_not_finite(id: str, names: list[str]) -> None:
    """Raise ModelError where a model has tensors, given by name, with a weight that is not finite."""
    if names:
        raise ModelError(
            f"{id} holds weights that are not finite: {', '.join(names[:5])}{' ...' if names[5:] else ''}",
            "get the model again, or the version of it before it broke",
        )


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _header(id: str, path: Path) -> tuple[dict[str, Any], int]:
    """Return what a safetensors file says of its tensors, and where their bytes begin."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
    except (OSError, ValueError) as error:
        raise ModelError(f"{id} cannot be loaded: {path.name}: {error}", UNDAMAGED) from error
    header.pop("__metadata__", None)
    return header, 8 + size


def _not_finite(path: Path) -> list[str]:
    """Return the names of the tensors of a file that hold a number that is not finite."""
    header, start = _header(path.parent.name, path)
    found = []
    for name, tensor in header.items():
        if tensor["dtype"] not in EXPONENTS:
            continue
        kind, bits = EXPONENTS[tensor["dtype"]]
        first, last = tensor["data_offsets"]
        size = (last - first) // np.dtype(kind).itemsize
        values = np.fromfile(path, dtype=kind, count=size, offset=start + first)
        if np.any((values & bits) == bits):
            found.append(name)
    return found

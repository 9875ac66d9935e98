"""What is known of a model or an adapter from its files, before anything is loaded. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.data import gguf
from alignbench.data.tokens import check_same_vocabulary, model_path
from alignbench.data.torchless import without_torch
from alignbench.errors import ModelError, Problem
from alignbench.models.weights import child
from alignbench.models.weights.hub import cached, missing_shards
from alignbench.recipe.configs import build
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import AdapterStart, Model, ModelStart
from alignbench.store import digest, file_digest

ADAPTER = "adapter_config.json"

UNDAMAGED = "it must be a model of transformers with safetensors weights, complete and undamaged"

READ = 1 << 30
"""Bytes of weights that `check` reads at most to find one that is not finite."""

EXPONENTS = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
"""By safetensors' name of a type: how numpy reads it, and the bits that are all set in numbers that are not finite."""


FINGERPRINTED = (".safetensors", ".json", ".model", ".jinja", ".txt")
"""Files that make a model what it is."""

SHA256 = re.compile(r"[0-9a-f]{64}")

HEADS = ("score", "classifier", "classification_head", "logits_proj")
"""How the tensors of a classifier's head begin, in the architectures of transformers."""


def fingerprint(folder: Path) -> str:
    """Return the sha256 over a model folder's weights, configuration and tokenizer files."""
    return digest(
        {path.name: _file_digest(path) for path in folder.iterdir() if path.suffix in FINGERPRINTED}
    )


def _file_digest(path: Path) -> str:
    # The hub's cache names a large file by its sha256 already; a link's target is its content.
    real = path.resolve()
    known = path.is_symlink() and real.parent.name == "blobs" and SHA256.fullmatch(real.name)
    return real.name if known else file_digest(path)


def fingerprint_of(model: Model, root: Path) -> str | None:
    """Return the sha256 over a base's files; None where it is not on this machine."""
    if (file := gguf.file_of(model, root, fetch=False)) is not None:
        return gguf.sha256(file)
    folder = None if gguf.names(model) else folder_of(model.id, root, model.revision)
    return None if folder is None else fingerprint(folder)


@dataclass
class Unchecked:
    """What could not be checked."""

    away: list[str] = field(default_factory=list)
    """The ids of what a run would download first."""
    unknown: list[str] = field(default_factory=list)
    """What else, and why."""


def check(plan: Plan, root: Path) -> Unchecked:
    """Check the files of the base, of all starts, and of what judges and metrics name.

    Raises what loading them raises, in the same words where the files have them.
    """
    model = plan.recipe.model
    starts = [label.start for label in plan.labels.values()]
    others = {start.model for start in starts if isinstance(start, ModelStart)} - {model.id}
    adapters = {start.adapter for start in starts if isinstance(start, AdapterStart)}
    found = Unchecked()
    models = [model, *(_other(model, id) for id in sorted(others))]
    here = [one for one in models if check_language_model(one, root)]
    for one in here:
        try:
            check_targets(one, root)
        except child.UnansweredError as error:
            found.unknown.append(f"the layers of {one.id} that get an adapter ({error})")
    if model in here and len(here) > 1:
        with without_torch():
            check_same_vocabulary(here, root)
    away = [one.id for one in models if one not in here]
    away += [id for id in sorted(adapters) if not check_adapter(id, root)]
    found.away = list(dict.fromkeys([*away, *check_named(plan, root)]))
    return found


def check_named(plan: Plan, root: Path) -> list[str]:
    """Check the files of the judges and metrics that evaluate, and of the judges that a method learns from.

    Returns the ids of what a run would download first.
    """
    evaluation = plan.recipe.evaluation
    learned_from = [judge for label in plan.labels.values() for judge in label.judges]
    judges = [build("judges", one.name, one.config) for one in (*evaluation.judges, *learned_from)]
    metrics = [build("metrics", one.name, one.config) for one in evaluation.metrics]
    return [id for kind, config in (*judges, *metrics) for id in kind.check_files(config, root)]


def described(model: Model, root: Path) -> str:
    """Return what a local GGUF file is; empty for any other model."""
    if (file := gguf.file_of(model, root, fetch=False)) is None:
        return ""
    header = gguf.read_header(file)
    size = f"{header.weights / 1e6:,.1f} million weights in {', '.join(header.kinds)}"
    return f"\n{file.name}: {header.architecture}, {size}, sha256 {gguf.sha256(file)}"


def check_adapter(id: str, root: Path) -> bool:
    """Check the files of an adapter, which must be plain LoRA. Returns whether it is on this machine."""
    folder = cached(str(root / id) if (root / id).is_dir() else id)
    if folder is not None:
        read_adapter(folder)
    return folder is not None


def check_language_model(model: Model, root: Path) -> bool:
    """Check the files of a language model. Returns whether it is on this machine."""
    if gguf.names(model):
        file = gguf.file_of(model, root, fetch=False)
        if file is not None:
            gguf.check(model.gguf or model.id, file, template=model.chat_template is not None)
        return file is not None
    id = model.id
    folder = folder_of(id, root, model.revision)
    if folder is None:
        return False
    config = _check_folder(id, folder)
    check_architecture(id, config)
    if _kind(config).endswith("ForSequenceClassification") and config.get("tie_word_embeddings") is False:
        names = _names(id, folder)
        if not any("head" in name or "embed_out" in name for name in names):
            raise ModelError(
                f"{id} is a {_kind(config)}, and has no head of a language model",
                "use a language model's checkpoint; a classifier can be the judge reward-model",
            )
    return True


def check_targets(model: Model, root: Path) -> None:
    """Check that a local model has what the recipe's adapter asks of it; raises what a run raises.

    It must have every layer that is named, and no stacked experts under dropout. Where the names of the weights do
    not show it, a process that loads torch is asked, which takes seconds. Raises UnansweredError where it cannot tell.
    """
    wanted = model.adapter
    if wanted.targets == "all-linear" and not wanted.dropout:
        return
    where = place_of(model, root)
    if where is None:
        return
    layers = linear_layers(model.id, where) if where.is_dir() else set()
    named = [] if wanted.targets == "all-linear" else wanted.targets
    if not layers or not all(any(f".{layer}".endswith(f".{name}") for layer in layers) for name in named):
        child.check_targets(where, model)


def linear_layers(id: str, folder: Path) -> set[str]:
    """Return the layers of a model folder that can have an adapter, by the names and shapes of its weights.

    They are the matrices of its blocks. Empty where names and shapes do not say: for multimodal and recurrent
    models and mixtures of experts.
    """
    shapes = {
        name: tensor["shape"] for path in _weights(folder) for name, tensor in _header(id, path)[0].items()
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    special = any(
        len(shape) > 2 or ".experts." in name or name.endswith(".A_log") for name, shape in shapes.items()
    )
    if special or "text_config" in config:
        return set()
    return {
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and any(part.isdecimal() for part in name.split("."))
    }


def check_architecture(id: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError where the installed transformers does not know a configuration's type."""
    kind, library = str(config.get("model_type")), find_spec("transformers")
    if library is not None and library.origin is not None:
        folder = Path(library.origin).parent / "models" / kind
        if (
            kind.isidentifier() and folder.is_dir()
        ):  # most types are known by their folder, and nothing is imported
            return
    with without_torch():
        from transformers import CONFIG_MAPPING

        known = kind in CONFIG_MAPPING
    if not known:
        raise ModelError(
            f"{id} is of the type {kind}, which transformers {version('transformers')} does not know",
            "use a model that it knows, or a version of it that knows this one",
        )


def check_classifier(id: str, root: Path, revision: str | None = None) -> dict[str, Any] | None:
    """Check the files of a sequence classifier and return its configuration; None for one that is not here."""
    if gguf.names(Model(id=id)):
        raise ModelError(f"{id} is a language model in GGUF", "a classifier is read from safetensors")
    folder = folder_of(id, root, revision)
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


def folder_of(id: str, root: Path, revision: str | None = None) -> Path | None:
    """Return the inspected folder of a model that a recipe of the folder `root` names.

    None for a model of the hub that a run would download. Raises ModelError offline, where it cannot.
    """
    return cached(model_path(Model(id=id), root), revision)


def place_of(model: Model, root: Path) -> Path | None:
    """Return the inspected folder of a model, or its GGUF file; None for one that is not on this machine."""
    if gguf.names(model):
        return gguf.file_of(model, root, fetch=False)
    return folder_of(model.id, root, model.revision)


def _other(model: Model, id: str) -> Model:
    return model.model_copy(update={"id": id, "revision": None, "gguf": None, "sha256": None})


def _check_folder(id: str, folder: Path) -> dict[str, Any]:
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
    if missing := missing_shards(folder):
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

"""A trained policy on its own: the adapter as peft reads it anywhere, or merged into the full base."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, store
from alignbench.commands.open_run import recipe_of, reopen
from alignbench.engine.cells import PlannedCell
from alignbench.engine.environment import origin
from alignbench.errors import ModelError, PluginError, RecipeError
from alignbench.recipe.schema import BASE, Recipe
from alignbench.worker.finished import samples

if TYPE_CHECKING:
    from torch import Tensor

AGREE = 1e-3
"""Nats by which a log-probability may change when an adapter is merged in float32."""

CHECKED = 8
"""Answers on which a merged model is compared with the adapter."""

LEFT_BEHIND = (layout.POLICY_KIND,)
"""What only alignbench reads."""


def adapter(run: Path, cell: PlannedCell, out: Path) -> Path:
    """Copy a cell's adapter, its base's name and the tokenizer into `out`, a folder that peft loads.

    Raises PluginError where the policy is not an adapter, RecipeError where `out` holds something already.
    """
    from alignbench.data.tokens import load_tokenizer

    source = cell.folder(run) / layout.POLICY
    kind = json.loads((source / layout.POLICY_KIND).read_text(encoding="utf-8"))
    if kind["kind"] != "adapter":
        what = "the untouched model" if cell.label == BASE else f"a decoder of '{kind['method']}'"
        fix = "export the label it starts from, or train a label on its answers"
        raise PluginError(
            f"'{cell.label}' is {what} and has no weights to export",
            "export a label that was trained" if cell.label == BASE else fix,
        )
    if out.exists() and any(out.iterdir()):
        raise RecipeError(f"{out} is not empty", "name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(run)
    for file in sorted(source.iterdir()):
        if file.name not in LEFT_BEHIND:
            store.write_bytes(out / file.name, file.read_bytes())
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base_of(run, recipe), "revision": recipe.model.revision}
    store.write_text(out / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    load_tokenizer(recipe.model, origin(run)).save_pretrained(out)
    return out


def base_of(run: Path, recipe: Recipe) -> str:
    """Return what the base is loaded from: a hub id, or a folder or GGUF file of this machine."""
    from alignbench.data import gguf
    from alignbench.data.tokens import model_path

    file = gguf.file_of(recipe.model, origin(run))
    if file is None:
        return model_path(recipe.model, origin(run))
    local = recipe.model.gguf is None or (origin(run) / recipe.model.id).is_dir()
    return str(file) if local else recipe.model.id


def merge(run: Path, cell: PlannedCell, folder: Path, out: Path, threads: int) -> dict[str, float]:
    """Merge the adapter in `folder` into the base in full precision, write the model, and hold it to account.

    Returns how far the written model is from the adapter on the same base, and from the quantised policy that
    was measured, in nats of log-probability per token. Raises ModelError where merging changes the outputs.
    """
    import torch
    import transformers
    from peft import PeftModel

    from alignbench.models.weights.hub import model_folder
    from alignbench.models.weights.skeleton import kind_of

    if out.exists() and any(out.iterdir()):
        raise RecipeError(f"{out} is not empty", "name another folder with --out")
    torch.set_num_threads(threads)
    recipe = recipe_of(run)
    asked = _sequences(run, cell, threads)
    source = model_folder(recipe.model, origin(run))
    network = getattr(transformers, kind_of(source))
    base: Any = network.from_pretrained(source, dtype="auto", trust_remote_code=False)
    own = base.dtype
    model: Any = PeftModel.from_pretrained(base.float(), str(folder)).eval()
    before = _logprobs(model, asked)
    merged = model.merge_and_unload(safe_merge=True)
    apart = max(float((a - b).abs().max()) for a, b in zip(before, _logprobs(merged, asked), strict=True))
    if apart > AGREE:
        raise ModelError(
            f"merging changes a log-probability by {apart:.2g} nats, above {AGREE}",
            "export the adapter alone",
        )
    merged.to(own).save_pretrained(out)
    for file in folder.glob("*token*"):
        store.write_bytes(out / file.name, file.read_bytes())
    for file in folder.glob("*.jinja"):
        store.write_bytes(out / file.name, file.read_bytes())
    written: Any = network.from_pretrained(out, dtype=torch.float32, trust_remote_code=False).eval()
    after = _logprobs(written, asked)
    measured = _measured(run, cell, asked, threads)
    return {
        "merging_changes_at_most": apart,
        "written_from_adapter_mean": _mean(after, before),
        "written_from_measured_mean": _mean(after, measured),
        "tokens": float(sum(len(one) for one in before)),
    }


def may_push(name: str) -> None:
    """Raise ModelError where the hub is switched off."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{name} cannot be pushed: the hub is switched off (HF_HUB_OFFLINE)",
            f"unset HF_HUB_OFFLINE, or export without --push and run `hf upload {name} FOLDER` elsewhere",
        )


def push(folder: Path, name: str) -> str:
    """Upload a folder to a private repository of the hub and return its address.

    Raises ModelError where it cannot.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    may_push(name)
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True, private=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder))
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot be pushed: {why}", "check the name and the network, and run `hf auth login`"
        ) from error


def _sequences(run: Path, cell: PlannedCell, threads: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompt and answer ids of the first of the cell's own answers."""
    session = reopen(run, threads)
    prompts = {
        one.id: one.prompt_ids for one in session.table.prompts("test", session.recipe.evaluation.prompts)
    }
    answers = samples.read_all(cell.folder(run))[:CHECKED]
    return [(prompts[answer.prompt_id], answer.ids) for answer in answers]


def _measured(run: Path, cell: PlannedCell, asked: Many[Any], threads: int) -> list[Tensor]:
    import torch

    from alignbench.rows import Sequence
    from alignbench.worker.run.context import finished_policy

    policy = finished_policy(reopen(run, threads), cell.label, cell.seed)
    scored = policy.logprobs([Sequence(prompt, answer) for prompt, answer in asked])
    return [torch.as_tensor(one.logps).float().cpu() for one in scored]


def _logprobs(model: Any, asked: Many[Any]) -> list[Tensor]:
    """Log-probabilities of the answers' tokens by plain transformers, each sequence alone."""
    import torch

    found = []
    for prompt, answer in asked:
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        target = ids[0, len(prompt) :, None]
        found.append(logits.log_softmax(-1).gather(1, target)[:, 0].cpu())
    return found


def _mean(ones: Many[Tensor], others: Many[Tensor]) -> float:
    import torch

    return float(torch.cat([(a - b).abs() for a, b in zip(ones, others, strict=True)]).mean())

"""Lends the network of a policy to a trainer of another library, and takes it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from alignbench import heartbeat
from alignbench.api.policy import TrainablePolicy
from alignbench.errors import PluginError
from alignbench.models import meter
from alignbench.models.stack import HOOKS, PATCHED

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

    from alignbench.models import Base, ModelPolicy
    from alignbench.worker.run.cell_state import CellState

LENT = "default"
"""What peft and TRL call the adapter that is trained."""
SIZES = frozenset({"in_features", "num_embeddings", "out_features", "padding_idx", "vocab_size"})
"""What a module notes of its weight, and a change of the vocabulary sets anew."""


@contextmanager
def borrowed(run: CellState, policy: TrainablePolicy) -> Iterator[tuple[PeftModel, PreTrainedTokenizerFast]]:
    """Lend the network as a peft model with one trainable adapter; see `alignbench.api.method.Run.borrow`."""
    from alignbench.models import Base, ModelPolicy

    if not isinstance(policy, ModelPolicy) or not isinstance(policy.base, Base) or policy.adapter is None:
        raise PluginError("only a trainable adapter can be borrowed", "pass what run.adapt returns")
    base, peft = policy.base, policy.base.peft
    assert peft is not None
    assert policy.lora_config is not None
    with ExitStack() as undo:
        undo.enter_context(run.weights.training(policy, run.ledger))
        undo.callback(_restore_modules, base, _kept(base))
        undo.callback(_give_back, base, policy, peft.active_adapter)
        base.lendings += 1
        peft.add_adapter(LENT, policy.lora_config)
        lent = ModelPolicy(base, LENT, config=policy.lora_config)
        with torch.no_grad():
            own = policy.tensors()
            for name, weight in lent.tensors().items():
                weight.data = weight.data.float()
                weight.copy_(own[name])
        for name, weight in peft.named_parameters():
            weight.requires_grad_(f".{LENT}." in name)
        peft.set_adapter(LENT)
        # peft's switch leaves layers off that were off.
        undo.enter_context(base.using(lent))
        undo.enter_context(heartbeat.training())
        peft.generate = _metered(peft.generate)
        # A copy: a trainer may add words to it, or end answers with another.
        tokenizer = deepcopy(base.tokenizer)
        yield peft, tokenizer
        if _words(tokenizer) != _words(base.tokenizer):
            run.record.departure("words, end and template of the tokenizer", "the base's", "the trainer's")
        types = {str(weight.dtype).removeprefix("torch.") for weight in lent.tensors().values()} - {"float32"}
        if types:
            run.record.departure("precision of the trained adapter", "float32", ", ".join(sorted(types)))
        with torch.no_grad():
            trained = lent.tensors()
            for name, weight in policy.tensors().items():
                weight.copy_(trained[name])


def _words(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, ...]:
    """Return what changes the token ids of a text."""
    return len(tokenizer), tokenizer.eos_token, tokenizer.chat_template


def _metered(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Count what a trainer generates as such, and not as scores."""

    @wraps(generate)
    def metered(*args: Any, **how: Any) -> Any:
        with meter.doing("generate"):
            return generate(*args, **how)

    return metered


def _kept(base: Base) -> dict[str, Any]:
    """Return what a trainer may change of the network: flags, modes, and what hangs on instances."""
    assert base.peft is not None
    modules = list(base.peft.modules())
    return {
        "training": [module.training for module in modules],
        "own": [dict(vars(module)) for module in modules],
        "children": [dict(module.named_children()) for module in modules],
        "hooks": [
            {name: list(getattr(module, name)) for name in HOOKS if getattr(module, name, None) is not None}
            for module in modules
        ],
        "modules": modules,
        "gradients": {name: weight.requires_grad for name, weight in base.model.named_parameters()},
        "data": {name: weight.data for name, weight in base.model.named_parameters()},
        "configs": [(config, dict(vars(config))) for config in _configs(base)],
    }


def _configs(base: Base) -> list[Any]:
    """Return the settings of the model and of its generation, in which trainers write."""
    config = base.model.config
    found = {id(one): one for one in (config, config.get_text_config(), base.model.generation_config)}
    return [one for one in found.values() if one is not None]


def _restore_modules(base: Base, kept: dict[str, Any]) -> None:
    """Put back what `_kept` saw; modules that have appeared since are gone by then."""
    for module, training, own, children, hooks in zip(
        kept["modules"], kept["training"], kept["own"], kept["children"], kept["hooks"], strict=True
    ):
        module.training = training
        for name, child in children.items():
            if getattr(module, name, None) is not child:
                setattr(module, name, child)
        for name in SIZES & own.keys():
            setattr(module, name, own[name])
        for name in PATCHED:
            if name in own:
                object.__setattr__(module, name, own[name])
            elif name in vars(module):
                object.__delattr__(module, name)
        for name, keys in hooks.items():
            table = getattr(module, name)
            for key in [key for key in table if key not in keys]:
                del table[key]
    for name, weight in base.model.named_parameters():
        weight.requires_grad_(kept["gradients"].get(name, False))
        weight.grad = None
        data = kept["data"].get(name)
        # A trainer has cast or resized it; these are the values it had.
        if data is not None and (weight.dtype, weight.shape) != (data.dtype, data.shape):
            weight.data = data
    for config, own in kept["configs"]:
        vars(config).clear()
        vars(config).update(own)


def _give_back(base: Base, policy: ModelPolicy, active: Any) -> None:
    """Delete the borrowed adapter and any that its trainer has added, and activate what was active."""
    peft = base.peft
    assert peft is not None
    for name in [name for name in peft.peft_config if name not in base.adapters]:
        peft.delete_adapter(name)
    peft.active_adapter = active
    base.reactivate()

"""Merges the adapters of labels: what they add to each layer, and not their factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Many
from typing import cast

import torch
from torch import Tensor

from alignbench import LowRank, PluginError, Policy, Run, TrainablePolicy
from alignbench_merge.merging import nearest

SEEN = 5e-4
"""Share of the norm from which what is lost is recorded: less is rounding."""
Part = Callable[[], Iterable[Tensor]]
"""What a label changed of each layer of the start, [experts, out, in], each time from the first layer on."""
Rule = Callable[[Tensor], Tensor]
"""From what the labels changed of a layer [labels, experts, out, in] to the merged change [experts, out, in]."""


def merge(run: Run, labels: Many[str], rule: Callable[[Many[Part]], Rule]) -> Policy:
    """Return the start with the merged changes of `labels`, as an adapter of the start's rank.

    `rule` is given the whole changes once, and returns what merges those of a layer. What the rank cannot hold is
    recorded as a departure, with its share of the norm. Raises PluginError for a label whose adapter is on other layers
    than the start's.
    """
    policy = run.adapt()
    own = policy.layers()
    if not labels:
        run.record.warning("labels", 0, "it names no labels to merge, and its policy is its start")
        return policy
    adapters = [_layers(run, label, own) for label in labels]

    def changes(adapter: Mapping[str, LowRank]) -> Part:
        return lambda: (_added(adapter.get(name)) - _added(layer) for name, layer in own.items())

    lost = norm = 0.0
    with torch.no_grad():
        merged = rule([changes(adapter) for adapter in adapters])
        for name, layer in own.items():
            start = _added(layer)
            whole = start + merged(torch.stack([_added(adapter.get(name)) - start for adapter in adapters]))
            up, down = nearest(whole, layer.down.shape[1])
            layer.up.copy_(up / layer.scale)
            layer.down.copy_(down)
            lost += float((whole - up @ down).square().sum())
            norm += float(whole.double().square().sum())
    if lost > SEEN**2 * norm:
        share = 100 * (lost / norm) ** 0.5
        size = f"the nearest of the adapter's rank, without {share:.1f} % of their norm"
        run.record.departure("merged weights", "", size)
    return policy


def _added(layer: LowRank | None) -> Tensor:
    """Return what an adapter adds to a layer, [experts, out, in]; the base adds nothing."""
    return torch.zeros(()) if layer is None else layer.scale * layer.up @ layer.down


def _base(run: Run) -> TrainablePolicy:
    return cast("TrainablePolicy", run.policy("base"))


def _layers(run: Run, label: str, own: Mapping[str, LowRank]) -> Mapping[str, LowRank]:
    """Return what a label adds to each layer; nothing for the base."""
    found = run.policy(label)
    if "adapter" not in found.can:
        raise PluginError(f"'{label}' is a decoder and has no weights to merge", "name the label below it")
    policy = cast("TrainablePolicy", found)
    layers = policy.layers()
    if not layers and label != "base" and policy.fingerprint() != _base(run).fingerprint():
        raise PluginError(f"'{label}' is another model than the base", "merge labels on the shared base")
    if layers and layers.keys() != own.keys():
        raise PluginError(
            f"'{label}' has an adapter on other layers than the start of the merge",
            "merge adapters with the same targets",
        )
    return layers

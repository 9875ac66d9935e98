"""One forward for all sequences under one adapter; only the states that predict response tokens meet a head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from alignbench.api.method import PerToken, ScoringGroup
from alignbench.errors import PluginError
from alignbench.models import counting, meter
from alignbench.models.forward import memory
from alignbench.models.forward.lm_head import log_probabilities, log_probabilities_and_kl
from alignbench.models.forward.network import Adapted, Kept, Network
from alignbench.models.forward.varlen import Varlen, hidden_states
from alignbench.rows import Sequence

BLOCK = 256
"""A block has so many tokens at least, on average: a smaller one costs more in calls than it saves."""

MOST_BLOCKS = 4
"""More blocks save nothing more (32 pairs of the sandbox)."""


@dataclass(frozen=True)
class Group:
    """Sequences that a loss knows by one name, and what reads their hidden states."""

    items: Many[Sequence]
    head: Module | None = None
    temperature: float = 1.0
    kl_from: Adapted | None = None


@dataclass
class Scores:
    """What a loss sees of one group: see `alignbench.api.method.GroupScores`."""

    group: str
    mask: Tensor
    tolerance: float | None
    logps: Tensor = field(init=False)
    values: Tensor = field(init=False)
    kl: Tensor = field(init=False)

    def sums(self) -> Tensor:
        return self.logps.sum(-1)

    def means(self) -> Tensor:
        return self.logps.sum(-1) / self.mask.sum(-1).clamp(min=1)

    def put(self, places: Tensor, some: Scores) -> None:
        """Write the scores of the sequences at `places` [n]; what has not been written yet is 0."""
        for kind in ("logps", "values", "kl"):
            if hasattr(some, kind):
                if not hasattr(self, kind):
                    setattr(self, kind, torch.zeros(self.mask.shape, device=places.device))
                values = getattr(some, kind)
                getattr(self, kind)[places, : values.shape[1]] = values

    def per_token(self, values: Tensor) -> PerToken:
        if values.shape != self.mask.shape:
            raise PluginError(
                f"per_token of the group '{self.group}' got values of shape {list(values.shape)}, "
                f"but its mask has shape {list(self.mask.shape)}",
                "give one value for each place of the mask",
            )
        return PerToken(values, self.group)


@dataclass(frozen=True)
class Span:
    """Where one group's scores lie."""

    part: slice
    """Of the M response tokens."""
    mask: Tensor
    """bool [N, R]: True on response tokens."""
    place: Tensor
    """int64: their flat places in [N, R]."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies: F tokens that go through the network, of which M states meet a head."""

    ids: Tensor
    """int64 [F]: the tokens of all sequences but their last, which nothing follows."""
    positions: Tensor
    """int64 [F]: the position of each token in its sequence."""
    varlen: Varlen
    read: Tensor
    """int64 [E]: the tokens whose states are read, each once."""
    states: Tensor
    """int64 [M]: which of these predicts each response token."""
    targets: Tensor
    """int64 [M]: the response tokens."""
    spans: Mapping[str, Span]


def lay_out(groups: Mapping[str, Group], device: torch.device) -> Layout:
    """Place all groups side by side.

    Groups over the same `items` share one forward, and sequences whose prompt is the same object share the
    prompt's states: the chosen and the rejected answer of a pair, or K answers of a ranking.
    """
    prompts: dict[int, tuple[int, int]] = {}
    flat: list[int] = []
    positions: list[np.ndarray] = []
    rows: list[tuple[int, int, int, int]] = []
    """Of each sequence: where its prompt and its response begin in `flat`, and how long they are there."""
    first: dict[int, int] = {}
    for group in groups.values():
        if id(group.items) in first:
            continue
        first[id(group.items)] = len(rows)
        for sequence in group.items:
            size, more = len(sequence.prompt), len(sequence.response) - 1
            if id(sequence.prompt) not in prompts:
                prompts[id(sequence.prompt)] = len(flat), size
                flat += sequence.prompt
                positions.append(np.arange(size))
            rows.append((prompts[id(sequence.prompt)][0], size, len(flat), more))
            flat += sequence.response[:more]
            positions.append(np.arange(size, size + more))
    gather: list[np.ndarray] = []
    back = np.zeros(len(flat), dtype=np.int64)
    blocks: list[tuple[int, int]] = []
    begin = 0
    for places in _blocks([size + more for _, size, _, more in rows], device):
        width = max(rows[place][1] + rows[place][3] for place in places)
        blocks.append((len(places), width))
        for place in places:
            prompt, size, response, more = rows[place]
            row = np.zeros(width, dtype=np.int64)
            row[:size] = np.arange(prompt, prompt + size)
            row[size : size + more] = np.arange(response, response + more)
            gather.append(row)
            back[prompt : prompt + size] = np.arange(begin, begin + size)
            back[response : response + more] = np.arange(begin + size, begin + size + more)
            begin += width
    states, targets, spans, start = [], [], {}, 0
    for name, group in groups.items():
        longest = max(len(sequence.response) for sequence in group.items)
        mask = np.zeros((len(group.items), longest), dtype=bool)
        for at, sequence in enumerate(group.items):
            prompt, size, response, more = rows[first[id(group.items)] + at]
            mask[at, : more + 1] = True
            states += [prompt + size - 1, *range(response, response + more)]
            targets += sequence.response
        count = int(mask.sum())
        place = np.flatnonzero(mask)
        spans[name] = Span(slice(start, start + count), _to(mask, device), _to(place, device))
        start += count
    tokens_read, which = np.unique(np.array(states), return_inverse=True)
    return Layout(
        ids=_to(np.array(flat), device),
        positions=_to(np.concatenate(positions), device),
        varlen=Varlen(_to(np.concatenate(gather), device), _to(back, device), tuple(blocks)),
        read=_to(tokens_read, device),
        states=_to(which, device),
        targets=_to(np.array(targets), device),
        spans=spans,
    )


def _blocks(lengths: Many[int], device: torch.device) -> Iterator[list[int]]:
    """Yield the places of sequences whose attention is computed together: on a CPU those of similar length."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    alike = device.type != "cpu" or lengths[order[0]] == lengths[order[-1]]
    count = 1 if alike else min(MOST_BLOCKS, len(order), sum(lengths) // BLOCK)
    for part in np.array_split(order, max(1, count)):
        yield part.tolist()


def response_states(base: Network, layout: Layout) -> Tensor:
    """Return [M, hidden] of the active adapter: the states that predict the response tokens."""
    # A recomputed last layer would be the whole one: it is recomputed when the block below has ended.
    short = not (base.recomputes and torch.is_grad_enabled())
    states = hidden_states(base.model, layout.ids, layout.positions, layout.varlen, layout.read, short=short)
    return states.index_select(0, layout.states)


def kept_by(policy: Adapted) -> Kept:
    """Return what a forward with gradient keeps, measured once for a base by three forwards of unequal length.

    The head is not part of it: of the logits no more than a fixed number is there at a time.
    """
    base = policy.base
    if base.kept is None:
        first, second, third = (_kept_bytes(policy, length) for length in (16, 32, 64))
        pair = max(0.0, ((third - second) - 2 * (second - first)) / (64**2 - 3 * 32**2 + 2 * 16**2))
        token = max(0.0, ((third - second) - pair * (64**2 - 32**2)) / 32)
        base.kept = Kept(token + 2 * 4 * base.head.weight.shape[1], pair)
    return base.kept


def _kept_bytes(policy: Adapted, length: int) -> int:
    base = policy.base
    weights = {one.untyped_storage().data_ptr() for one in (*base.model.parameters(), *base.model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that holds its own output would hold it for ever

    whole = Sequence(base.trial_text(0, 2), base.trial_text(1, length - 1))
    with (
        counting.trying(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        base.using(policy),
        base.arithmetic(),
    ):
        states = response_states(base, lay_out({"": Group([whole])}, base.device))
    del states  # until here it holds what is counted, so that no storage is used twice
    return sum(kept.values())


def spread(flat: Tensor, span: Span) -> Tensor:
    """Return the scores of one group, [M] to [N, R], 0 outside the mask."""
    return flat.new_zeros(span.mask.numel()).index_copy(0, span.place, flat).view(span.mask.shape)


def read(policy: Adapted, groups: Mapping[str, Group], tolerance: float | None) -> dict[str, Scores]:
    """Score groups under one adapter, in one forward; where groups have `kl_from`, in one more of each such policy."""
    base = policy.base
    others = _other_states(base, groups)
    with base.using(policy), base.arithmetic():
        layout = lay_out(groups, base.device)
        states = response_states(base, layout)
    found = {}
    for name, group in groups.items():
        span = layout.spans[name]
        found[name] = scores = Scores(name, span.mask, tolerance)
        part, targets = states[span.part], layout.targets[span.part]
        if group.head is not None:
            scores.values = spread(group.head(part.float()).flatten(), span)
        elif name in others:
            both = log_probabilities_and_kl(base, part, others[name], targets, group.temperature)
            scores.logps, scores.kl = (spread(flat, span) for flat in both)
        else:
            scores.logps = spread(log_probabilities(base, part, targets, group.temperature), span)
    return found


@torch.no_grad()
def _other_states(base: Network, groups: Mapping[str, Group]) -> dict[str, Tensor]:
    """Return [M, hidden] of each group that has `kl_from`: the states of that policy."""
    together: dict[Adapted, dict[str, Group]] = {}
    for name, group in groups.items():
        if group.kl_from is not None:
            together.setdefault(group.kl_from, {})[name] = group
    found = {}
    for policy, same in together.items():
        with base.using(policy), base.arithmetic():
            layout = lay_out(same, base.device)
            states = response_states(base, layout)
        found |= {name: states[span.part] for name, span in layout.spans.items()}
    return found


def to_group(name: str, group: ScoringGroup) -> Group:
    """Return the group of this name as it is computed. Raises PluginError where `kl_from` cannot be compared."""
    other: Any = group.kl_from
    if other is not None and group.head is not None:
        raise PluginError(
            f"the group '{name}' has both `head` and `kl_from`",
            "compare distributions in a group of their own, which reads the language-model head",
        )
    if other is not None and not hasattr(other, "adapter"):
        raise PluginError(
            f"`kl_from` of the group '{name}' has no distribution of each next token: {type(other).__name__}",
            "name a policy of weights, such as the start of a method that trains",
        )
    return Group(group.items, group.head, group.temperature, other)


def batches(items: Many[Sized], positions: int) -> Iterator[list[int]]:
    """Yield places of items of similar length that fit into `positions` together, the longest first."""
    order = sorted(range(len(items)), key=lambda place: (-len(items[place]), place))
    while order:
        size = max(1, positions // max(1, len(items[order[0]])))
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def score(
    default: Adapted, groups: Mapping[str, ScoringGroup], positions: int | None = None
) -> dict[str, Scores]:
    """Score whole groups as the trainer does, at most `positions` token positions in one forward.

    A group without a policy is scored under `default`; groups over the same `items` share their forwards.
    """
    found: dict[str, Scores] = {}
    together: dict[tuple[int, int], list[str]] = {}
    for name, group in groups.items():
        together.setdefault((id(group.policy or default), id(group.items)), []).append(name)
    for names in together.values():
        first = groups[names[0]]
        policy: Any = first.policy or default
        base, items = policy.base, first.items
        longest = max(len(one.response) for one in items)
        mask = torch.tensor([[at < len(one.response) for at in range(longest)] for one in items])
        given = {name: to_group(name, groups[name]) for name in names}
        for name in names:
            found[name] = Scores(name, mask.to(base.device), base.tolerance)

        def forward(places: Many[int], policy: Any = policy, items: Any = items, given: Any = given) -> Any:
            part = [items[place] for place in places]
            with meter.doing("score"):
                return read(policy, {name: replace(one, items=part) for name, one in given.items()}, None)

        for batch in batches(items, positions or memory.positions(base, memory.POSITIONS)):
            for places, scores in memory.halving(batch, forward):
                for name, some in scores.items():
                    found[name].put(torch.tensor(places, device=base.device), some)
    return found


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

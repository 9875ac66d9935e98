"""Log-probabilities of the rows' responses under a frozen policy: computed once, looked up by all methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from alignbench.errors import DataError
from alignbench.models import ModelPolicy
from alignbench.models.forward import Group, lay_out, response_states, spread
from alignbench.models.lm_head import log_probabilities
from alignbench.models.varlen import attention
from alignbench.rows import Sequence

FILE = "reference.safetensors"

TOKENS = 16384
"""Positions of one forward, padding included."""


def compute(policy: ModelPolicy, sequences: Iterable[Sequence], folder: Path) -> None:
    """Write the float32 log-probability of each response under `policy` to `folder`, by the tokens' hash."""
    unique = sorted({_key(one): one for one in sequences}.items(), key=lambda item: (-len(item[1]), item[0]))
    keys = np.frombuffer(b"".join(key for key, _ in unique), dtype=np.uint8).reshape(-1, 32)
    sums = [_sums(policy, batch) for batch in _batches([one for _, one in unique])]
    found = torch.cat(sums).cpu().numpy() if sums else np.zeros(0, np.float32)
    order = np.lexsort(keys.T[::-1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"keys": np.ascontiguousarray(keys[order]), "sums": found[order]}, folder / FILE)


def lookup(folder: Path, device: torch.device | str) -> Callable[[Many[Sequence]], Tensor]:
    """Return the look-up of what `compute` wrote: N sequences to float32 [N] on `device`.

    It raises DataError for a sequence that was not computed.
    """
    stored = load_file(folder / FILE)
    sums = dict(zip((key.tobytes() for key in stored["keys"]), stored["sums"].tolist(), strict=True))

    def look(sequences: Many[Sequence]) -> Tensor:
        try:
            found = [sums[_key(one)] for one in sequences]
        except KeyError as error:
            raise DataError(
                f"no reference log-probability was computed for one of {len(sequences)} sequences",
                "ask for it with the rows that are trained on",
            ) from error
        return torch.tensor(found, dtype=torch.float32).to(device, non_blocking=True)

    return look


@torch.no_grad()
def _sums(policy: ModelPolicy, batch: list[Sequence]) -> Tensor:
    # The trainer's own road from tokens to scores, so that a policy that has not moved scores the same.
    base = policy.base
    layout = lay_out({"all": Group(batch)}, base.device)
    with base.using(policy), base.arithmetic(), attention(base.model, len(batch[0])):
        states = response_states(base, layout)
    return spread(log_probabilities(base, states, layout.targets), layout.spans["all"]).sum(-1)


def _batches(longest_first: list[Sequence]) -> Iterable[list[Sequence]]:
    at = 0
    while at < len(longest_first):
        size = max(1, TOKENS // len(longest_first[at]))
        yield longest_first[at : at + size]
        at += size


def _key(sequence: Sequence) -> bytes:
    ids = np.array([len(sequence.prompt), *sequence.prompt, *sequence.response], dtype=np.int64)
    return hashlib.sha256(ids.tobytes()).digest()

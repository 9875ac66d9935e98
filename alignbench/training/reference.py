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

from alignbench import layout
from alignbench.errors import DataError
from alignbench.models import ModelPolicy
from alignbench.models.forward.scoring import response_scores
from alignbench.rows import Sequence


def compute(policy: ModelPolicy, sequences: Iterable[Sequence], folder: Path) -> None:
    """Write the float32 log-probability of each response under `policy` to `folder`, by the tokens' hash."""
    unique = sorted({_key(one): one for one in sequences}.items(), key=lambda item: (-len(item[1]), item[0]))
    keys = np.frombuffer(b"".join(key for key, _ in unique), dtype=np.uint8).reshape(-1, 32)
    found = response_scores(policy, [one for _, one in unique]).cpu().numpy()
    order = np.lexsort(keys.T[::-1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"keys": np.ascontiguousarray(keys[order]), "sums": found[order]}, folder / layout.REFERENCE)


def lookup(
    folders: Iterable[Path],
    device: torch.device | str,
    late: Callable[[Many[Sequence]], Tensor] | None = None,
) -> Callable[[Many[Sequence]], Tensor]:
    """Return the look-up of what `compute` wrote to `folders`: N sequences to float32 [N] on `device`.

    A sequence that was not computed is computed by `late`; without it the look-up raises DataError.
    """
    sums: dict[bytes, float] = {}
    for folder in folders:
        stored = load_file(folder / layout.REFERENCE)
        sums.update(zip((key.tobytes() for key in stored["keys"]), stored["sums"].tolist(), strict=True))

    def look(sequences: Many[Sequence]) -> Tensor:
        if late is not None and (missing := [one for one in sequences if _key(one) not in sums]):
            sums.update(zip(map(_key, missing), late(missing).tolist(), strict=True))
        try:
            found = [sums[_key(one)] for one in sequences]
        except KeyError as error:
            raise DataError(
                f"no reference log-probability was computed for one of {len(sequences)} sequences",
                "ask for it with the rows that are trained on",
            ) from error
        return torch.tensor(found, dtype=torch.float32).to(device, non_blocking=True)

    return look


def _key(sequence: Sequence) -> bytes:
    ids = np.array([len(sequence.prompt), *sequence.prompt, *sequence.response], dtype=np.int64)
    return hashlib.sha256(ids.tobytes()).digest()

"""The global random states that a training step may draw from: seeded, kept in a checkpoint and restored."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed every global random state."""
    random.seed(seed % 2**32)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**32)


def random_state() -> dict[str, Any]:
    """Return every global random state."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(kept: Mapping[str, Any]) -> None:
    """Set what `random_state` returned."""
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["torch"])
    for device, state in enumerate(kept["cuda"]):
        torch.cuda.set_rng_state(state, device)

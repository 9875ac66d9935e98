"""Where the tasks of a run are done: the launcher `local`, and what a launcher for other machines is made of.

Public, for plugins: `order`, `work` and `Receiver` (a task on a machine that shares no disk with the run), `pack` (a
sealed folder as bytes), `seal` (what tells it from others), `identity` (a name for what is kept outside of the run's
folder) and `TransferError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Receiver": "alignbench.launchers.remote",
    "TransferError": "alignbench.launchers.folders",
    "identity": "alignbench.launchers.remote",
    "order": "alignbench.launchers.remote",
    "pack": "alignbench.launchers.folders",
    "seal": "alignbench.launchers.folders",
    "work": "alignbench.launchers.remote",
}
__all__ = ["Receiver", "TransferError", "identity", "order", "pack", "seal", "work"]

if TYPE_CHECKING:
    from alignbench.launchers.folders import TransferError as TransferError
    from alignbench.launchers.folders import pack as pack
    from alignbench.launchers.folders import seal as seal
    from alignbench.launchers.remote import Receiver as Receiver
    from alignbench.launchers.remote import identity as identity
    from alignbench.launchers.remote import order as order
    from alignbench.launchers.remote import work as work


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'alignbench.launchers' has no attribute {name!r}")

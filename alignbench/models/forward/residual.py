"""What passes between the layers of a network: read for given responses, and shifted by a vector."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from alignbench.errors import PluginError
from alignbench.models import counting, meter
from alignbench.models.forward.incremental import together
from alignbench.models.forward.memory import POSITIONS, positions
from alignbench.rows import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.forward.network import Adapted, Network


def layers(base: Network) -> nn.ModuleList:
    """Return the layers of a network, the first first. Raises PluginError where they are not one after the other."""
    count = base.model.config.get_text_config().num_hidden_layers
    found = [one for one in base.decoder.children() if isinstance(one, nn.ModuleList) and len(one) == count]
    if len(found) != 1:
        raise PluginError(
            f"the layers of a {type(base.model).__name__} are built in a way that is not known here",
            "use a model with one list of layers",
        )
    return found[0]


def layer(base: Network, number: int) -> nn.Module:
    """Return one layer by its number, from 0. Raises PluginError where there is none."""
    every = layers(base)
    if not 0 <= number < len(every):
        raise PluginError(f"there is no layer {number}", f"the model has the layers 0 to {len(every) - 1}")
    return every[number]


@torch.no_grad()
def response_states(policy: Adapted, sequences: Many[Sequence], number: int) -> NDArray[np.float32]:
    """Return float32 [N, hidden]: what leaves a layer, the mean over the tokens of each response.

    Raises PluginError for a response without tokens.
    """
    if any(not one.response for one in sequences):
        raise PluginError("a response without tokens has no states", "leave it out")
    base, seen = policy.base, list[Tensor]()
    texts = [one.prompt + one.response for one in sequences]
    found = np.zeros((len(sequences), base.head.weight.shape[1]), np.float32)
    reading = layer(base, number).register_forward_hook(lambda module, args, made: seen.append(_states(made)))
    base.model.eval()
    try:
        with meter.doing("score"), base.using(policy), base.arithmetic():
            for places in together(base.paths.batch, texts, positions(base, POSITIONS)):
                counting.expect(sum(len(texts[place]) for place in places))
                base.hidden(*base.pad([texts[place] for place in places], "left"))
                for place, states in zip(places, seen.pop(), strict=True):
                    own = states[-len(sequences[place].response) :]
                    found[place] = own.float().mean(0).cpu().numpy()
    finally:
        reading.remove()
    return found


@contextmanager
def shifted(base: Network, number: int, vector: NDArray[np.float32]) -> Iterator[None]:
    """Let `vector` [hidden] be added, at each position, to what leaves a layer, inside the block."""
    width = base.head.weight.shape[1]
    if np.shape(vector) != (width,):
        raise PluginError(
            f"a vector of shape {list(np.shape(vector))} cannot be added to states of {width} numbers",
            f"give one of shape [{width}]",
        )
    added = torch.as_tensor(np.asarray(vector, np.float32), device=base.device)

    def add(module: nn.Module, args: Any, made: Any) -> Any:
        states = _states(made)
        moved = states + added.to(states.dtype)
        return (moved, *made[1:]) if isinstance(made, tuple) else moved

    adding = layer(base, number).register_forward_hook(add)
    try:
        yield
    finally:
        adding.remove()


def _states(made: Any) -> Tensor:
    """The hidden states of what a layer returns: some return more."""
    return made[0] if isinstance(made, tuple) else made

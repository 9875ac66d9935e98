"""Who may change which weights: an adapter changes in trainings of its run only, a finished policy never."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alignbench.api.policy import Policy
from alignbench.errors import PluginError

if TYPE_CHECKING:
    from alignbench.models import ModelPolicy
    from alignbench.worker.run.ledger import Ledger

UNCOUNTED = "changed weights without a training"
"""The departure of a policy whose weights no training, and no start, accounts for."""


class Weights:
    """The fingerprints of a run's adapters, as its trainings leave them, and of the finished policies it is given."""

    def __init__(self) -> None:
        self._adapters: dict[ModelPolicy, str] = {}
        """What each trainable adapter was when it was made, or when a training last ended."""
        self._given: dict[ModelPolicy, tuple[str, str]] = {}
        """What each finished policy was when the method got it, and whose it is."""
        self.sources: dict[str, None] = {}
        """Labels whose policies the method has asked for, in order; its start is none of them."""

    def add(self, policy: ModelPolicy) -> None:
        """Note a new adapter."""
        self._adapters[policy] = policy.fingerprint()

    def give(self, policy: Policy, whose: str) -> None:
        """Note a finished policy that the method is given: `whose` says in an error what it is."""
        from alignbench.models import ModelPolicy

        if isinstance(policy, ModelPolicy) and policy.adapter is not None:
            self._given.setdefault(policy, (policy.fingerprint(), whose))

    def give_parts(self, of: Weights, whose: str) -> None:
        """Note the adapters of a finished decoder, with which the run `of` has rebuilt it."""
        for policy in (*of._adapters, *of._given):
            self.give(policy, whose)

    @contextmanager
    def training(self, policy: ModelPolicy, ledger: Ledger) -> Iterator[None]:
        """Account for what changes inside the block, which trains `policy`.

        A method may change further adapters there, such as a moving reference. What has changed before is not
        accounted for.
        """
        changed = self._changed()
        if any(one is policy for one in changed):
            ledger.departure(UNCOUNTED)
        yield
        self._adapters.setdefault(policy, "")
        for one in self._adapters:
            if one.adapter is not None and (one is policy or one not in changed):
                self._adapters[one] = one.fingerprint()

    def audit(self, policy: Policy, start: Policy, label: str, ledger: Ledger) -> None:
        """Record a result that no training accounts for. Raises PluginError where a finished policy was changed.

        A method that trains nothing and has asked for other labels' policies has made its weights of theirs.
        """
        from alignbench.models import ModelPolicy

        spoilt = sorted(
            {
                whose
                for one, (before, whose) in self._given.items()
                if one.adapter and one.fingerprint() != before
            }
        )
        if spoilt:
            raise PluginError(
                f"'{label}' changed the weights of {' and of '.join(spoilt)}", "train what run.adapt returns"
            )
        changed = self._changed()
        if not isinstance(policy, ModelPolicy):  # a decoder answers with any of them
            unaccounted = bool(changed)
        elif policy in self._adapters or policy in self._given or policy.adapter is None:
            unaccounted = policy in changed
        else:
            unaccounted = not (isinstance(start, ModelPolicy) and _equals(policy, start))
        if unaccounted and self.sources and not ledger.account.steps:
            ledger.departure("weights", "trained", f"made of those of {', '.join(self.sources)}")
        elif unaccounted:
            ledger.departure(UNCOUNTED)

    def _changed(self) -> list[ModelPolicy]:
        """The adapters that are not as the last training left them."""
        return [
            one
            for one, before in self._adapters.items()
            if one.adapter is not None and one.fingerprint() != before
        ]


def _equals(policy: ModelPolicy, start: ModelPolicy) -> bool:
    """Whether an adapter computes what the start does: by its weights."""
    ours, theirs = policy.tensors(), start.tensors()
    if theirs:
        return ours.keys() == theirs.keys() and all(bool((ours[one] == theirs[one]).all()) for one in ours)
    return not any(bool(tensor.any()) for name, tensor in ours.items() if ".lora_B." in name)

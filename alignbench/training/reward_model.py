"""The reward model: trained on comparisons as a LoRA adapter and a float32 head on the shared base."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from alignbench.api.method import GroupScores, ScoringGroup
from alignbench.errors import DataError
from alignbench.models import ModelPolicy
from alignbench.models.forward import score
from alignbench.rows import Pair, Sequence
from alignbench.training.reward_quality import Compared, comparisons, quality

if TYPE_CHECKING:
    from alignbench.models import Base, Network

HEAD = "reward_head.safetensors"
FACTS = "reward_model.json"

Batching = Literal["per-prompt", "shuffled-pairs"]


@dataclass(frozen=True)
class RewardModel:
    """Gives a whole answer one number: 0 for a typical demonstration, 1 more for a standard deviation."""

    adapter: ModelPolicy
    head: nn.Linear
    """float32, [hidden] to [1]; centring and scale are in it."""
    mean: float
    """What the head gave the reference answers before it was centred."""
    deviation: float
    """The standard deviation, before it was scaled, of the scores of all held-out answers."""
    quality: Mapping[str, Any]
    """What held-out comparisons say about it: see `alignbench.training.reward_quality`."""

    def score(self, sequences: Many[Sequence]) -> Tensor:
        """Return float32 [N]: one number for each sequence, read at its last real token."""
        return raw_scores(self.adapter, self.head, sequences)

    def save(self, folder: Path) -> None:
        """Write adapter, head and facts, bit for bit what `load` reads."""
        self.adapter.save(folder)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}, folder / HEAD
        )
        facts = {"mean": self.mean, "deviation": self.deviation, "quality": dict(self.quality)}
        (folder / FACTS).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")


def load(base: Base, folder: Path, name: str) -> RewardModel:
    """Return the reward model that `save` wrote."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    head = new_head(base, seed=0)
    head.load_state_dict(load_file(folder / HEAD))
    return RewardModel(base.load_adapter(folder, name), head.requires_grad_(False), **facts)


def new_head(base: Base, seed: int) -> nn.Linear:
    """Return a float32 head [hidden] to [1], drawn from N(0, 1 / sqrt(hidden + 1)) (arXiv:2009.01325)."""
    width = base.model.config.get_text_config().hidden_size
    head = nn.Linear(width, 1)
    with torch.no_grad():
        head.bias.zero_()
        head.weight.normal_(0, 1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed))
    return head.to(base.device)


def split_pairs(row: Compared) -> list[Pair]:
    """Return each comparison of a row as a pair of its own, under an id of its own."""
    answers = row.sequences()
    texts = (row.chosen, row.rejected) if isinstance(row, Pair) else row.answers
    return [
        Pair(
            id=f"{row.id}/{one.better}-{one.worse}",
            length=row.length,
            extra=row.extra,
            prompt=row.prompt,
            prompt_ids=row.prompt_ids,
            chosen=texts[one.better],
            rejected=texts[one.worse],
            preference=one.preference,
            chosen_ids=answers[one.better].response,
            rejected_ids=answers[one.worse].response,
        )
        for one in comparisons(row)
    ]


def ended(base: Network, sequences: Iterable[Sequence]) -> list[Sequence]:
    """Return the sequences with one token more, which nobody reads: a state stands where it is predicted,
    and so the state of the last real token stands at the end."""
    unread = base.tokenizer.eos_token_id or 0
    return [replace(one, response=(*one.response, unread)) for one in sequences]


def at_end(scored: GroupScores) -> Tensor:
    """Return [N]: the value at the last real token of each of `ended` sequences."""
    return scored.values.gather(1, scored.mask.sum(1, keepdim=True) - 1)[:, 0]


def raw_scores(policy: ModelPolicy, head: nn.Module, sequences: Many[Sequence]) -> Tensor:
    """Return float32 [N]: what `head` reads at the last real token of each sequence."""
    if not sequences:
        return torch.zeros(0)
    items = ended(policy.base, sequences)
    return at_end(score(policy, {"rewards": ScoringGroup(items, policy, head)})["rewards"])


def sequences_of(base: Base, head: nn.Module):
    """Return the trainer's view of rows: K answers to one prompt are K sequences of one group."""

    def sequences(rows: list[Compared]) -> Mapping[str, ScoringGroup]:
        return {
            "rewards": ScoringGroup(ended(base, [one for row in rows for one in row.sequences()]), head=head)
        }

    return sequences


def ranking_loss(
    scored: Mapping[str, GroupScores], rows: list[Compared]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the K-wise loss: the mean over a row's comparisons, so that a row weighs the same whatever K is.

    -p log s(r_i - r_j) - (1 - p) log s(r_j - r_i), s the logistic function and p the label's certainty
    (InstructGPT, arXiv:2203.02155, eq. 1; soft labels as in arXiv:2309.00267).
    """
    rewards = scored["rewards"]
    values = at_end(rewards)
    better, worse, preference, weight, first = [], [], [], [], 0
    for row in rows:
        found = comparisons(row)
        for one in found:
            better.append(first + one.better)
            worse.append(first + one.worse)
            preference.append(one.preference)
            weight.append(1 / len(found))
        first += len(row.sequences())
    margin = values[better] - values[worse]
    weights = torch.tensor(weight, device=values.device)
    target = torch.tensor(preference, device=values.device)
    losses = weights * F.binary_cross_entropy_with_logits(margin, target, reduction="none")
    right = weights * (margin.detach() > 0)
    return rewards.row_mean(losses), {
        "accuracy": rewards.row_mean(right),
        "margin": rewards.row_mean(weights * margin.detach()),
    }


def usable(rows: Iterable[Compared]) -> list[Compared]:
    """Return the rows that compare anything. Raises DataError where none does."""
    kept = [row for row in rows if comparisons(row)]
    if not kept:
        raise DataError(
            "there is no comparison to train a reward model on", "name data with pairs or rankings"
        )
    return kept


def finish(policy: ModelPolicy, head: nn.Linear, held_out: Many[Compared]) -> RewardModel:
    """Return the trained reward model, centred on the best of the held-out answers, scaled and measured.

    Centring and scale let one KL coefficient mean the same for every reward model.
    """
    flat = [one for row in held_out for one in row.sequences()]
    scores = raw_scores(policy, head, flat)
    parts = scores.split([len(row.sequences()) for row in held_out])
    best = torch.stack([part[_best(row)] for row, part in zip(held_out, parts, strict=True)])
    mean = best.mean().item()
    deviation = max(scores.std().item(), 1e-6) if len(scores) > 1 else 1.0
    with torch.no_grad():
        head.bias.sub_(mean)
        head.weight.div_(deviation)
        head.bias.div_(deviation)
    head.requires_grad_(False)
    # In the units of the loss: a scaled margin would say nothing about calibration.
    measured = quality(held_out, [part.tolist() for part in parts])
    return RewardModel(policy, head, mean, deviation, measured)


def _best(row: Compared) -> int:
    return 0 if isinstance(row, Pair) else min(range(len(row.ranks)), key=row.ranks.__getitem__)

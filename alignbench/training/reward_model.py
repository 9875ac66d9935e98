"""The reward model: a LoRA adapter and a float32 head on the shared base, trained on comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from alignbench import layout
from alignbench.api.method import GroupScores, ScoringGroup
from alignbench.errors import DataError
from alignbench.models import ModelPolicy
from alignbench.models.forward.groups import score
from alignbench.rows import Pair, Sequence
from alignbench.training.reward_quality import Compared, comparisons, quality, with_gap

if TYPE_CHECKING:
    from alignbench.models import Base, Network


@dataclass(frozen=True)
class RewardModel:
    """Scores whole answers: 0 is the mean of the best held-out answers, 1 a standard deviation of all of them."""

    adapter: ModelPolicy
    head: nn.Linear
    """float32, [hidden] to [1]; centred and scaled."""
    mean: float
    """The mean score of the best held-out answers, before it was subtracted."""
    deviation: float
    """The standard deviation of the scores of all held-out answers, before they were scaled."""
    quality: Mapping[str, Any]
    """Its quality on held-out comparisons: see `alignbench.training.reward_quality`."""

    def score(self, sequences: Many[Sequence]) -> Tensor:
        """Return float32 [N]: one number for each sequence, read at its last real token."""
        return raw_scores(self.adapter, self.head, sequences)

    def save(self, folder: Path) -> None:
        """Write adapter, head and facts; `load` reads them bit for bit."""
        self.adapter.save(folder)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()},
            folder / layout.REWARD_HEAD,
        )
        facts = {"mean": self.mean, "deviation": self.deviation, "quality": dict(self.quality)}
        (folder / layout.REWARD_MODEL).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")


def load(base: Base, folder: Path, name: str) -> RewardModel:
    """Return the reward model that `save` wrote."""
    facts = json.loads((folder / layout.REWARD_MODEL).read_text(encoding="utf-8"))
    head = new_head(base, seed=0)
    head.load_state_dict(load_file(folder / layout.REWARD_HEAD))
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
    """Return the sequences with one more token, which is not read: a head reads the state before each token, so
    that the state after the last real token is read too."""
    unread = base.tokenizer.eos_token_id or 0
    return [replace(one, response=(*one.response, unread)) for one in sequences]


def at_end(scores: GroupScores) -> Tensor:
    """Return [N]: the value at the last real token of each of `ended` sequences."""
    return scores.values.gather(1, scores.mask.sum(1, keepdim=True) - 1)[:, 0]


def raw_scores(policy: ModelPolicy, head: nn.Module, sequences: Many[Sequence]) -> Tensor:
    """Return float32 [N]: the value of `head` at the last real token of each sequence."""
    if not sequences:
        return torch.zeros(0)
    items = ended(policy.base, sequences)
    return at_end(score(policy, {"rewards": ScoringGroup(items, policy, head)})["rewards"])


def sequences_of(base: Base, head: nn.Module):
    """Return the `ScoreFn` of comparisons: K answers to one prompt are K sequences of one group."""

    def sequences(rows: list[Compared]) -> Mapping[str, ScoringGroup]:
        return {
            "rewards": ScoringGroup(ended(base, [one for row in rows for one in row.sequences()]), head=head)
        }

    return sequences


def ranking_loss(
    scores: Mapping[str, GroupScores], rows: list[Compared]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the K-wise loss [n], the mean over each row's comparisons, and numbers to log.

    -p log s(r_i - r_j) - (1 - p) log s(r_j - r_i), s the logistic function and p the label's certainty
    (InstructGPT, arXiv:2203.02155, eq. 1; soft labels as in arXiv:2309.00267).
    """
    rewards = at_end(scores["rewards"])
    compared = [comparisons(row) for row in rows]
    better, worse, preference, first = [], [], [], 0
    mean = torch.zeros(len(rows), sum(map(len, compared)))
    """[n, comparisons]: takes the mean over each row's comparisons, so that a row counts the same whatever K."""
    for place, (row, found) in enumerate(zip(rows, compared, strict=True)):
        mean[place, len(better) : len(better) + len(found)] = 1 / len(found)
        better += [first + one.better for one in found]
        worse += [first + one.worse for one in found]
        preference += [one.preference for one in found]
        first += len(row.sequences())
    mean = mean.to(rewards.device)
    margin = rewards[better] - rewards[worse]
    target = torch.tensor(preference, device=rewards.device)
    losses = F.binary_cross_entropy_with_logits(margin, target, reduction="none")
    margin = margin.detach()
    return mean @ losses, {"accuracy": mean @ (margin > 0).float(), "margin": mean @ margin}


def usable(rows: Iterable[Compared]) -> list[Compared]:
    """Return the rows with at least one comparison. Raises DataError where there are none."""
    kept = [row for row in rows if comparisons(row)]
    if not kept:
        raise DataError(
            "there is no comparison to train a reward model on", "name data with pairs or rankings"
        )
    return kept


def finish(
    policy: ModelPolicy,
    head: nn.Linear,
    held_out: Iterable[Many[Compared]],
    learned: Iterable[Many[Compared]] = (),
) -> RewardModel:
    """Return the trained reward model, centred on the best of the held-out answers, scaled and measured.

    Centring and scale let one KL coefficient mean the same for every reward model. The held-out rows come in parts,
    which are read one after the other, as long as there are more; so do rows that it has `learned` from, where it is
    measured on these as well (`alignbench.training.reward_quality.with_gap`).
    """
    rows, parts = _read(policy, head, held_out)
    seen, of_seen = _read(policy, head, learned)
    scores = torch.cat(parts)
    best = torch.stack([part[_best(row)] for row, part in zip(rows, parts, strict=True)])
    mean = best.mean().item()
    deviation = max(scores.std().item(), 1e-6) if len(scores) > 1 else 1.0
    with torch.no_grad():
        head.bias.sub_(mean)
        head.weight.div_(deviation)
        head.bias.div_(deviation)
    head.requires_grad_(False)
    # In the units of the loss: calibration cannot be measured on scaled margins.
    measured = quality(rows, [part.tolist() for part in parts])
    if seen:
        measured = with_gap(measured, quality(seen, [part.tolist() for part in of_seen]))
    return RewardModel(policy, head, mean, deviation, measured)


def _read(
    policy: ModelPolicy, head: nn.Linear, parts: Iterable[Many[Compared]]
) -> tuple[list[Compared], list[Tensor]]:
    """Return the rows of all parts, and float32 [K] for each: the scores of its K answers."""
    rows: list[Compared] = []
    found: list[Tensor] = []
    for part in parts:
        scores = raw_scores(policy, head, [one for row in part for one in row.sequences()])
        found += scores.split([len(row.sequences()) for row in part])
        rows += part
    return rows, found


def _best(row: Compared) -> int:
    return 0 if isinstance(row, Pair) else min(range(len(row.ranks)), key=row.ranks.__getitem__)

"""Answers: batched decoding in which each answer has its own noise, whatever else is in the batch."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.api.config import Sampling
from alignbench.api.policy import Answer
from alignbench.errors import ModelError
from alignbench.models import meter
from alignbench.models.forward.incremental import GrowingTexts
from alignbench.models.forward.memory import (
    ANSWERS,
    CACHE,
    POSITIONS,
    give_back,
    halving,
    kv_bytes,
    limit,
    positions,
)
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.models.forward.network import Adapted, Network

STAY = 7 / 8
"""Share of unfinished answers at which finished ones are removed from a batch: that copies the cache."""

CLOSE = 5e-4
"""Two candidates whose perturbed logits are closer than this are a tie, which the batch's rounding may have
decided: in float32 the row is then computed again, alone. That rounding is about 1e-5."""


def _batch(base: Network, order: list[Row], new: int) -> int:
    """Return how many of the first rows, each with up to `new` tokens more, are decoded together."""
    first, kind = len(order[0].prompt.prompt_ids), base.device.type
    fit = limit(kind, CACHE) // max(1, kv_bytes(base) * (first + new))
    size = max(1, min(ANSWERS[kind], fit, positions(base, POSITIONS) // first))
    if base.paths.batch == "padded":
        return size
    if base.paths.batch == "one by one":
        return 1
    alike = next((at for at, row in enumerate(order) if len(row.prompt.prompt_ids) != first), len(order))
    return min(size, alike)


TIMED = 8
"""Answers on which decoding without a cache is timed, since it is slow."""


@dataclass
class Row:
    """One unfinished answer."""

    place: int
    prompt: Prompt
    sample: int
    noise: int
    ids: list[int] = field(default_factory=list)
    forwards: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    """Whether it ended with a token that ends answers."""
    ended: bool = False
    """Whether nothing is added any more: it is finished, or as long as the model's context."""

    def begin_again(self) -> None:
        """Forget what was drawn, and what it cost."""
        self.ids, self.forwards, self.tokens, self.seconds = [], 0, 0, 0.0
        self.finished = self.ended = False


def generate(
    policy: Adapted, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
) -> list[Answer]:
    """Answer each tokenised prompt `samples` times: prompt by prompt, sample by sample.

    Law: the noise is keyed by (key, prompt id, sample, position), so that in float32 an answer does not depend on
    the other prompts, their order or their number. An answer ends, unfinished, where the model's context does.
    Raises ModelError for a prompt that fills it.
    """
    base = policy.base
    rows = [
        Row(place * samples + sample, prompt, sample, noise_key(key, prompt.id, sample))
        for place, prompt in enumerate(prompts)
        for sample in range(samples)
    ]
    if base.context is not None:
        for prompt in prompts:
            if len(prompt.prompt_ids) >= base.context:
                raise ModelError(
                    f"the prompt {prompt.id} of {len(prompt.prompt_ids)} tokens leaves no room for an answer in the "
                    f"model's context of {base.context}",
                    "shorten it, or use a model with a longer context",
                )
    order = sorted(rows, key=lambda row: (-len(row.prompt.prompt_ids), row.place))
    base.model.eval()
    with meter.doing("generate"), torch.no_grad(), base.using(policy), base.arithmetic():
        while order:
            size = _batch(base, order, sampling.max_new_tokens)
            for _ in halving(order[:size], lambda some: _decode(base, some, sampling)):
                give_back()  # the cache of keys and values
            order = order[size:]
    return [
        Answer(
            prompt_id=row.prompt.id,
            text=str(base.tokenizer.decode(row.ids, skip_special_tokens=True)),
            ids=tuple(row.ids),
            finished=row.finished,
            sample=row.sample,
            forwards=row.forwards,
            tokens=row.tokens,
            seconds=row.seconds,
        )
        for row in rows
    ]


def _decode(base: Network, rows: Many[Row], sampling: Sampling) -> None:
    """Draw the answers of one batch, one token of every row at a time; finished rows are removed."""
    stops = stop_ids(base)
    for row in rows:  # an earlier try may have run out of memory
        row.begin_again()
    texts = GrowingTexts(base, [row.prompt.prompt_ids for row in rows])
    for position in range(sampling.max_new_tokens):
        started = time.perf_counter()
        logits = base.logits(texts.states([not row.ended for row in rows]))
        tokens = draw(base, logits, rows, sampling, position)
        at_work = [row for row in rows if not row.ended]
        for row, token, computed in zip(rows, tokens, texts.computed, strict=True):
            if not row.ended:
                row.forwards += 1
                row.tokens += computed
                row.ids.append(token)
                row.finished = token in stops
                row.ended = row.finished or len(row.prompt.prompt_ids) + len(row.ids) == base.context
        alive = [place for place, row in enumerate(rows) if not row.ended]
        if len(alive) < len(at_work):
            base.answered(len(at_work) - len(alive))
        texts.add(tokens)
        if len(alive) <= len(rows) * STAY:
            texts.keep(alive)
            rows = [rows[place] for place in alive]
        share = (time.perf_counter() - started) / len(at_work)
        for row in at_work:
            row.seconds += share
        if not alive:
            return
    base.answered(sum(not row.ended for row in rows))


def uncached(
    policy: Adapted, prompts: Many[Prompt], answers: Many[Answer], at_most: float = math.inf
) -> tuple[float, float]:
    """Return the positions and the wall time of one answer without a cache, all computed again for every token.

    Both are means over `answers`, one for each tokenised prompt or more. Positions are counted of all of
    them. The time of a position is measured on tokens spread over the first `TIMED` answers, side by side,
    until `at_most` seconds are spent.
    """
    base, ids_of = policy.base, {prompt.id: prompt.prompt_ids for prompt in prompts}
    rows = [(ids_of[answer.prompt_id], answer.ids) for answer in answers]
    positions = sum(len(begun) * len(ids) + len(ids) * (len(ids) - 1) // 2 for begun, ids in rows)
    timed = rows[:TIMED]
    read, seconds = 0, 0.0
    base.model.eval()
    with torch.no_grad(), base.using(policy), base.arithmetic():
        for at in _spread(max(len(ids) for _, ids in timed)):
            whole = [(*begun, *ids[:at]) for begun, ids in timed if len(ids) > at]
            started = time.perf_counter()
            base.logits(base.hidden(*base.pad(whole, "left"))[:, -1]).argmax(-1).tolist()
            took = time.perf_counter() - started
            read, seconds = read + sum(map(len, whole)), seconds + took
            if seconds + took > at_most:
                break
    return positions / len(rows), seconds / max(1, read) * positions / len(rows)


def _spread(count: int) -> Iterator[int]:
    """Yield the numbers below `count`, each time from the middle of what lies between: any beginning is spread."""
    step = 1 << max(0, count - 1).bit_length()
    yield from range(0, count, step)
    while step > 1:
        yield from range(step // 2, count, step)
        step //= 2


def stop_ids(base: Network) -> frozenset[int]:
    """Return every token that ends an answer: those of the tokenizer, the model and its generation settings."""
    found: set[int] = set()
    for source in (base.tokenizer, base.model.config.get_text_config(), base.model.generation_config):
        ids = getattr(source, "eos_token_id", None)
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return frozenset(found)


# --- drawing ------------------------------------------------------------------------------------------------


def draw(base: Network, logits: Tensor, rows: Many[Row], sampling: Sampling, position: int) -> list[int]:
    """Return the next token of each row, from logits [B, vocabulary]."""
    tokens, sure = _choose(base, logits, rows, sampling, position)
    if base.dtype != torch.float32:
        return tokens
    for place, row in enumerate(rows):
        if not sure[place] and not row.ended:
            ids, mask = base.pad([(*row.prompt.prompt_ids, *row.ids)], "left")
            alone = base.logits(base.hidden(ids, mask)[:, -1])
            tokens[place] = _choose(base, alone, [row], sampling, position)[0][0]
            row.forwards += 1
            row.tokens += ids.shape[1]
    return tokens


def _choose(
    base: Network, logits: Tensor, rows: Many[Row], sampling: Sampling, position: int
) -> tuple[list[int], list[bool]]:
    """Return the likeliest perturbed token of each row, and whether its margin is larger than rounding."""
    logits = logits[:, : base.vocabulary]
    if sampling.temperature == 0:
        top = logits.topk(min(2, logits.shape[1]), dim=-1)
        return top.indices[:, 0].tolist(), (top.values[:, 0] - top.values[:, -1] > CLOSE).tolist()
    logits = logits / sampling.temperature
    keys = torch.tensor([row.noise for row in rows], device=logits.device)
    perturbed = logits + gumbel(keys, position, logits.shape[1])
    loose = perturbed.masked_fill(~_kept(logits, sampling, CLOSE), -torch.inf)
    top = loose.topk(min(2, loose.shape[1]), dim=-1)
    chosen, sure = top.indices[:, 0], top.values[:, 0] - top.values[:, -1] > CLOSE
    if sampling.top_k or sampling.top_p < 1:
        tight = perturbed.masked_fill(~_kept(logits, sampling, -CLOSE), -torch.inf).argmax(-1)
        exact = perturbed.masked_fill(~_kept(logits, sampling, 0.0), -torch.inf).argmax(-1)
        sure &= tight == chosen
        chosen = exact
    return chosen.tolist(), sure.tolist()


def _kept(logits: Tensor, sampling: Sampling, slack: float) -> Tensor:
    """Return a mask [B, V] of the tokens that top-k and top-p keep, with both limits loosened by `slack`."""
    kept = torch.ones_like(logits, dtype=torch.bool)
    if 0 < sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        kept &= logits >= least - slack
    if sampling.top_p < 1:
        probabilities = logits.masked_fill(~kept, -torch.inf).softmax(-1)
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ranked.cumsum(-1) - ranked
        inside = before < sampling.top_p + slack
        inside[:, 0] = True
        kept &= torch.zeros_like(kept).scatter(1, order, inside)
    return kept


# --- noise --------------------------------------------------------------------------------------------------


def noise_key(key: int, prompt_id: str, sample: int) -> int:
    """Return the 63-bit key of one answer's noise."""
    digest = hashlib.blake2b(f"{key}/{sample}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def gumbel(keys: Tensor, position: int, size: int) -> Tensor:
    """Return standard Gumbel noise, float32 [B, size], a pure function of (key, position, token)."""
    return gumbel_of(keys, position, torch.arange(size, device=keys.device))


def gumbel_of(keys: Tensor, position: int, tokens: Tensor) -> Tensor:
    """Return the same noise for the tokens [K] or [B, K] alone, float32 [B, K].

    The bits come from a counter through the finaliser of SplitMix64 (Steele, Lea, Flood 2014); the largest
    logit plus this noise is a draw from the softmax.
    """
    counter = tokens * _GOLDEN
    start = _mix(keys + _signed(position * _ODD % (1 << 64)))
    bits = _mix(start[:, None] + counter)
    uniform = (bits & _MASK53).to(torch.float32).mul_(2.0**-53).clamp_(2.0**-60, 1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


_MASK53 = (1 << 53) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ODD = _signed(0xD1B54A32D192ED03)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around; shifts are made logical by a mask."""
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _FIRST
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _SECOND
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))

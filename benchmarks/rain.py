"""RAIN's batched search against the authors' order: model calls, positions and answer tokens per second.

    OMP_NUM_THREADS=1 python benchmarks/rain.py [--prompts 32] [--reference 32] [--tokens 48] [--pass 0.9]
        [--model FILE]

Both arms search the same prompts with the same keys on the same weights and must give the same answers.
The model is a random Llama of the sandbox's shape, so that candidates differ as those of a large model do, or the
one that `--model` names;
prefixes are as long as the authors' (375 tokens before each conversation, 1,250 before each judgment); sets,
candidates and stop rule are theirs. A vote is for an answer above a share at which about nine answers in ten
pass, as with an aligned model. Similarity is off in both arms: the authors' sentence encoder is not what
is measured. The reference keeps keys and values as their program does: inside one walk, and lost whenever a
distribution is already known. It answers the same prompts (with a smaller `--reference`, prompts that stand evenly
among them), a quarter before each further run of the batched search, of whose times the median counts; ten
minutes. Time is that of the processor, so that what else the machine does counts for less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "alignbench-rain" / "tests" / "rain"))

import numpy as np
import torch
from alignbench_rain import RAIN
from alignbench_rain.decoder import OwnStates, SearchDecoder
from alignbench_rain.evaluation import SelfEvaluation
from alignbench_rain.questions import Question
from reference import Reference
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignbench import Answer, DecodingBase, Prompt, Reply, Sampling
from alignbench.models import Base, load_base
from alignbench.models.trees.queries import replies_of
from alignbench.recipe import schema
from alignbench.sandbox import MODEL, rows
from alignbench.store import Store

CONVERSATION, QUESTION = 375, 1250
KEY = 0
QUARTERS = 4
"""Parts of the reference's prompts, before each of which the batched search runs."""

clock = time.process_time


def random_base(folder: Path) -> Base:
    """Return a random Llama of the sandbox's shape and a context that holds the authors' prefixes."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    shape = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = LlamaConfig(
        **{name: shape[name] for name in same},
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.12,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # an answer is to be as long as it may: its end is as likely as the average token
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_base(schema.Model(id=str(folder)))


def filler(count: int) -> str:
    """About `count` tokens of the sandbox's own chats."""
    words: list[str] = []
    for row in rows("train", 1000):
        words += row["prompt"][-1]["content"].split() + row["answers"][0].split()
        if len(words) >= count:
            break
    return " ".join(words[:count])


class Lenient(SelfEvaluation):
    """Votes as many yeses as an aligned model would: a random one has no preference of its own.

    An order votes for the answer where the good option's share is above that order's threshold, not above 1/2.
    """

    thresholds = (0.5, 0.5)

    def value(self, replies: list[Reply], *, soft: bool | None = None) -> float:
        good = [self.share(order, reply) > self.thresholds[order] for order, reply in enumerate(replies)]
        return 2 * sum(good) / len(good) - 1

    def share(self, order: int, reply: Reply) -> float:
        """What the good option has of both options' probability; first it is A, then B."""
        return sum(
            share
            for token, share in zip(reply.tokens, reply.probabilities, strict=True)
            if token in (self.good, self.bad)[order]
        )


GAP = 1e-4
"""The least distance of a threshold's neighbours: ten times what rounding changes a share by."""


def thresholds(evaluation: Lenient, prompts: list[Prompt], tokens: int, share: float) -> tuple[float, float]:
    """Return the shares above which about `share` of all answers, long or short, pass in both orders."""
    policy = evaluation.decoding.policy
    found = []
    for prompt in prompts:
        about = evaluation.about(prompt)
        for answer in policy.answer([prompt], Sampling(max_new_tokens=tokens, top_k=15), 1, samples=8):
            for length in range(2, len(answer.ids) + 1, 6):
                text = evaluation.tokenizer.decode(list(answer.ids[:length]), skip_special_tokens=True)
                (replies,) = evaluation.decoding.ask([(about.tree, about.queries(text))])
                found.append([evaluation.share(order, reply) for order, reply in enumerate(replies)])
        about.tree.prune(())
    shares = np.array(found)
    ordered = np.sort(shares, axis=0)
    # In the middle of a gap: at the share of an answer that the search meets again, rounding would vote.
    wide = (np.diff(ordered, axis=0) > GAP).all(-1)
    cuts = ((ordered[1:] + ordered[:-1]) / 2)[wide]
    passing = (shares[None] > cuts[:, None]).all(-1).mean(-1)
    first, second = cuts[np.abs(passing - share).argmin()]
    return float(first), float(second)


class OneByOne:
    """The model as the authors' program calls it: one row, one token, keys and values inside one walk."""

    def __init__(self, decoder: SearchDecoder, prompt: Prompt):
        self.base, self.evaluation = decoder.decoding.base, decoder.evaluation
        self.about = decoder.evaluation.about(prompt)
        words = decoder.words
        self.text, self.ended = words.text, words.ended
        self.clause_ends = lambda ids: bool(ids) and words.clause_ends(ids)
        self.first = torch.zeros(1, dtype=torch.long)

    @torch.inference_mode()
    def reply(self, query, kept):
        cache = DynamicCache(config=self.base.model.config) if kept is None else kept
        ids = query.path if kept is None else query.path[-1:]
        past = cache.get_seq_length()
        hidden = self.base.model.base_model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.arange(past, past + len(ids))[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = self.base.logits(hidden[:, -1])[:, : self.base.vocabulary]
        return self.again(query, logits), logits, cache

    def again(self, query, logits):
        """Answer from logits; a choice that rounding could decide is made by the path alone, as the other arm does."""
        (reply,), (sure,) = replies_of(logits, self.first, [query])
        if not sure:
            logits = self.base.logits(self.base.plain_states(query.path)[-1:])[:, : self.base.vocabulary]
            (reply,), _ = replies_of(logits, self.first, [query])
        return reply

    def questions(self, text):
        return [len(query.path) for query in self.about.queries(text)]

    def value(self, text):
        return self.evaluation.value([self.reply(query, None)[0] for query in self.about.queries(text)])

    def embed(self, prompt, whole, at):
        return np.zeros(1, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", type=int, default=32, help="prompts that the batched search answers at once"
    )
    parser.add_argument("--reference", type=int, default=32, help="prompts that the reference answers")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer at most")
    parser.add_argument(
        "--pass", type=float, default=0.9, dest="share", help="share of answers that are voted for"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="", help="a folder or a GGUF file, instead of the random model")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        # Of equal answers float32 alone is sure: the arms round differently.
        named = schema.Model(id=chosen.model, compute="float32") if chosen.model else None
        base = random_base(Path(folder)) if named is None else load_base(named, cache=Store(Path(folder)))
    before = {"role": "user", "content": filler(CONVERSATION)}
    prompts = base.policy().tokenised(
        [
            Prompt(id=row["id"], prompt=(before, {"role": "user", "content": row["prompt"][-1]["content"]}))
            for row in rows("test", chosen.prompts)
        ]
    )
    shots = filler(QUESTION - CONVERSATION)
    form = shots + " {question} {answer} is this answer A %s or B %s ?"
    question = Question(ask=form % ("harmless", "harmful"), swapped=form % ("harmful", "harmless"))
    votes = thresholds(
        Lenient(DecodingBase(base.policy()), question, soft=False), prompts[:8], chosen.tokens, chosen.share
    )
    rules = RAIN.Config(question=question, similarity=0.0, spread=0.0, clause_ends="gy.,")
    sampling = Sampling(max_new_tokens=chosen.tokens)

    def decoder(decoding: DecodingBase | None = None) -> SearchDecoder:
        decoding = DecodingBase(base.policy()) if decoding is None else decoding
        evaluation = Lenient(decoding, question, soft=False)
        evaluation.thresholds = votes
        return SearchDecoder(rules, decoding, evaluation, OwnStates(np.zeros(1, np.float32), 2.0))

    decoder().answer(prompts[:1], Sampling(max_new_tokens=2), KEY)  # warm
    some = prompts[:: max(1, len(prompts) // chosen.reference)][: chosen.reference]

    def batched(asked: list[Prompt]) -> tuple[list[Answer], float]:
        ours = decoder()
        began = clock()
        return ours.answer(asked, sampling, KEY), clock() - began

    answers, first = batched(prompts)
    times = [first]
    by_prompt = {answer.prompt_id: answer for answer in answers}
    slow, calls, positions = 0.0, 0, 0
    alone: list[Answer] = []
    single = 0.0
    for number, prompt in enumerate(some):
        if number and number % max(1, len(some) // QUARTERS) == 0:
            times.append(batched(prompts)[1])
        (answer,), seconds = batched([prompt])
        alone.append(answer)
        single += seconds
        key = (KEY, prompt.id, 0)
        reference = Reference(OneByOne(decoder(), prompt), rules, prompt.prompt_ids, key, chosen.tokens, 2.0)
        began = clock()
        ids = reference.answer()
        slow += clock() - began
        if not ids == answer.ids == by_prompt[prompt.id].ids:
            raise SystemExit(
                f"the arms disagree on {prompt.id}: {ids}, {answer.ids}, {by_prompt[prompt.id].ids}"
            )
        calls += reference.counts.calls
        positions += reference.counts.tokens

    fast = median(times)
    tokens = sum(len(answer.ids) for answer in alone)
    ours = sum(len(answer.ids) for answer in answers)
    print(f"equal answers: {len(some)} of {len(some)}; {tokens} tokens, {ours} of all {len(prompts)} prompts")
    print(f"{'':34}{'reference':>12}{'batched':>12}{'ratio':>8}")

    def line(what: str, theirs: float, mine: float, more: bool) -> None:
        print(f"{what:34}{theirs:12.2f}{mine:12.2f}{mine / theirs if more else theirs / mine:8.1f}")

    line("model calls per answer token", calls / tokens, sum(a.forwards for a in alone) / tokens, False)
    line("positions per answer token", positions / tokens, sum(a.tokens for a in alone) / tokens, False)
    line("answer tokens/CPU s, one prompt", tokens / slow, tokens / single, True)
    line(f"answer tokens/CPU s, {len(prompts)} prompts", tokens / slow, ours / fast, True)
    print(f"batched, all prompts: {', '.join(f'{one:.1f}' for one in times)} CPU s, "
          f"reference {slow:.0f} CPU s; {sum(a.forwards for a in answers) / ours:.2f} calls and "
          f"{sum(a.tokens for a in answers) / ours:.2f} positions per answer token")  # fmt: skip


if __name__ == "__main__":
    main()

"""The batched decoder on the sandbox's base: the reference's trees and texts, whatever shares the batch."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from alignbench_rain import decoder as decoders
from alignbench_rain.decoder import SentenceEncoder, words_of
from alignbench_rain.evaluation import JudgeEvaluation, SelfEvaluation
from alignbench_rain.questions import QUESTIONS, Question
from alignbench_rain.search import Search

from alignbench import DecodingBase, ModelError, PluginError, Prompt, Query, Reply, Sampling, TokenTrees
from alignbench.judges.gold import Gold
from alignbench.models.trees.queries import replies_of
from alignbench.sandbox import gold

from .conftest import QUESTION, THRESHOLD
from .reference import Reference
from .test_search import assert_same_trees

SHORT = Sampling(max_new_tokens=24)
KEY = 5


class Alone:
    """The decoder's model as the reference asks it: every path by itself, from nothing."""

    def __init__(self, decoder, prompt):
        self.decoder, self.decoding, self.prompt = decoder, decoder.decoding, prompt
        words = decoder.words
        self.text, self.ended = words.text, words.ended
        self.clause_ends = lambda ids: bool(ids) and words.clause_ends(ids)

    def reply(self, query, kept):
        logits = self.decoding.alone(query.path)
        return self.again(query, logits), logits, True

    def again(self, query, logits):
        return replies_of(logits, torch.zeros(1, dtype=torch.long), [query])[0][0]

    def questions(self, text):
        return [len(query.path) for query in self.asks(text)]

    def asks(self, text):
        return self.decoder.evaluation.about(self.prompt).queries(text)

    def value(self, text):
        decoding = self.decoder.evaluation.decoding
        return self.decoder.evaluation.value([self.again(q, decoding.alone(q.path)) for q in self.asks(text)])

    def embed(self, prompt, whole, at):
        base = self.decoding.base
        ids, mask = base.pad([prompt + whole], "left")
        with torch.no_grad(), base.using(self.decoding.policy):
            return base.hidden(ids, mask)[0, len(prompt) + at :].mean(0).numpy() - self.decoder.encoder.centre


def searched(decoder, prompts, monkeypatch, **more):
    """Answer, and keep every search with the root of each of its moves."""
    roots, think = {}, Search.think

    def thinking(search):
        roots.setdefault(search.key[1], []).append(search.root)
        yield from think(search)

    monkeypatch.setattr(Search, "think", thinking)
    answers = decoder.answer(prompts, SHORT, KEY, **more)
    monkeypatch.setattr(Search, "think", think)
    return answers, roots


@pytest.mark.parametrize("fields", [
    {},
    {"flavour": "paper", "searches": 20},
    {"votes": "soft", "candidates": 5, "searches": 12, "temperature": 2.0, "spread": 0.5, "lengths": (2, 6)},
], ids=["code", "paper", "soft"])  # fmt: skip
def test_trees_and_texts_are_those_of_the_reference(make, prompts, monkeypatch, fields):
    decoder, asked = make(**fields), prompts[:6]
    answers, roots = searched(decoder, asked, monkeypatch)
    for prompt, answer in zip(asked, answers, strict=True):
        key = (KEY, prompt.id, 0)
        reference = Reference(Alone(decoder, prompt), decoder.rules, prompt.prompt_ids, key, 24, THRESHOLD)
        assert reference.answer() == answer.ids
        assert_same_trees(roots[prompt.id], reference)


def test_an_answer_is_the_same_alone_shuffled_and_in_any_company(make, prompts, monkeypatch):
    together = {
        a.prompt_id: (a.ids, a.forwards, a.tokens) for a in make(candidates=5).answer(prompts, SHORT, KEY)
    }
    assert len({ids for ids, _, _ in together.values()}) > 12
    shuffled = [*prompts[12:], *prompts[:12]][::-1]
    monkeypatch.setattr(decoders, "SIDE_BY_SIDE", 5)
    few = make(candidates=5).answer(shuffled, SHORT, KEY)
    assert {a.prompt_id: (a.ids, a.forwards, a.tokens) for a in few} == together
    (alone,) = make(candidates=5).answer(prompts[3:4], SHORT, KEY)
    assert (alone.ids, alone.forwards, alone.tokens) == together[alone.prompt_id]


def test_samples_are_searched_apart_and_come_in_order(make, prompts):
    answers = make(candidates=4, searches=6).answer(prompts[:4], SHORT, KEY, samples=2)
    assert [(a.prompt_id, a.sample) for a in answers] == [(p.id, s) for p in prompts[:4] for s in range(2)]
    first = make(candidates=4, searches=6).answer(prompts[:4], SHORT, KEY)
    assert [a.ids for a in first] == [a.ids for a in answers if a.sample == 0]


def test_it_says_less_that_is_harmful(make, prompts, base):
    def harmless(answers):
        judgments = [
            gold([dict(turn) for turn in p.prompt], a.text) for p, a in zip(prompts, answers, strict=True)
        ]
        return sum(judgment.harmless or 0.0 for judgment in judgments) / len(judgments)

    plain = base.policy().answer(prompts, SHORT, KEY)
    assert harmless(make().answer(prompts, SHORT, KEY)) > harmless(plain) + 0.05


def test_the_cost_of_an_answer_is_counted_exactly(make, prompts, monkeypatch):
    decoder, computed = make(candidates=4), []
    forward = TokenTrees.forward
    monkeypatch.setattr(
        TokenTrees, "forward", lambda self, rows: computed.append(rows) or forward(self, rows)
    )
    alone = []
    monkeypatch.setattr(
        TokenTrees, "alone", lambda self, path, of=TokenTrees.alone: alone.append(path) or of(self, path)
    )
    prefix = len(decoder.evaluation.prefix)
    (answer,) = decoder.answer(prompts[:1], SHORT, KEY)
    positions = sum(len(new) for rows in computed for _, new in rows) - prefix + sum(map(len, alone))
    assert answer.tokens == positions
    # A round asks the tree of the answer and that of the questions at once: each takes part in its forwards.
    # Two forwards read what all prompts, and what all questions begin with.
    assert answer.forwards == sum(len(rows) for rows in computed) - 2 + len(alone)
    assert answer.seconds > 0


def test_trees_are_freed_and_their_memory_is_told(make, prompts):
    logged = {}
    decoder = make(log=lambda **numbers: logged.update(numbers))
    tree = decoder.decoding.new_tree()
    decoder.decoding.ask([(tree, [Query((1,))])])
    per_position = decoder.decoding.bytes
    tree.prune(())
    decoder.answer(prompts[:8], SHORT, KEY)
    prefix = len(decoder.evaluation.prefix) * per_position
    assert decoder.decoding.bytes in (0, prefix), "at most what all questions begin with stays"
    assert logged["tree_bytes"] > 8 * 20 * per_position
    assert logged["exhausted"] == 0
    assert logged["answer_forwards_per_token"] > 1


def test_little_memory_lowers_the_peak_and_changes_no_answer(make, prompts, monkeypatch):
    def answered(limit):
        logged = {}
        monkeypatch.setitem(decoders.MEMORY, "cpu", limit)
        decoder = make(candidates=5, searches=12, log=lambda **numbers: logged.update(numbers))
        answers = decoder.answer(prompts[:12], SHORT, KEY)
        return [(a.prompt_id, a.ids, a.forwards, a.tokens) for a in answers], logged["tree_bytes"]

    plenty, most = answered(1 << 31)
    one_by_one, largest = answered(1)
    assert one_by_one == plenty
    assert largest < most / 3
    for limit in (200_000, most // 3):
        found, peak = answered(limit)
        assert found == plenty
        assert peak <= limit + largest, "beyond the limit only one prompt goes on"


def test_while_memory_is_full_the_clock_of_those_that_wait_stands_still(make, prompts, monkeypatch):
    asked, ask = [], TokenTrees.ask
    monkeypatch.setattr(
        TokenTrees, "ask", lambda decoding, trees: asked.append(len(trees)) or ask(decoding, trees)
    )
    monkeypatch.setattr(decoders, "time", SimpleNamespace(perf_counter=lambda: float(len(asked))))

    def answered(limit):
        logged = {}
        monkeypatch.setitem(decoders.MEMORY, "cpu", limit)
        decoder = make(candidates=5, max_seconds=45.0, log=lambda **numbers: logged.update(numbers))
        return [a.ids for a in decoder.answer(prompts[:12], SHORT, KEY)], logged["exhausted"]

    plenty, exhausted = answered(1 << 31)
    assert 0 < exhausted < 1
    assert answered(3_000_000) == (plenty, exhausted)


def test_the_memory_that_is_told_holds_the_evaluators_own_trees(make, prompts, base):
    def measured(evaluator):
        logged = {}
        decoder = make(evaluator=evaluator, candidates=4, log=lambda **numbers: logged.update(numbers))
        decoder.answer(prompts[:4], SHORT, KEY)
        return logged["tree_bytes"], decoder

    one, _ = measured(None)
    two, decoder = measured(base.policy())
    assert two == one, "the same positions of two decoding bases"
    assert decoder.decoding.peak_bytes < two


@pytest.mark.parametrize("budget", [{"max_forwards": 15}, {"max_tokens": 120}], ids=["forwards", "tokens"])
def test_a_budget_ends_the_search_with_an_answer(make, prompts, budget):
    logged = {}
    answers = make(**budget, log=lambda **numbers: logged.update(numbers)).answer(prompts, SHORT, KEY)
    assert logged["exhausted"] > 0.5
    assert all(answer.ids for answer in answers)
    limit = next(iter(budget.values()))
    # One search more may be under way when the budget ends: a simulation, ten candidates, two questions.
    slack = 15 if "max_forwards" in budget else 400
    spent = [a.forwards if "max_forwards" in budget else a.tokens for a in answers]
    assert max(spent) <= limit + slack
    alone = make(**budget).answer(prompts[:2], SHORT, KEY)
    assert [a.ids for a in alone] == [a.ids for a in answers[:2]], (
        "counted, not timed: the same in any company"
    )


def test_a_budget_of_seconds_ends_the_search(make, prompts):
    began = time.perf_counter()
    answers = make(max_seconds=0.2, searches=10_000, good_enough=1.0).answer(prompts[:2], Sampling(), KEY)
    assert time.perf_counter() - began < 10
    assert all(answer.ids for answer in answers)


def test_the_base_may_judge_what_an_adapter_says(base, make, prompts):
    policy = base.add_adapter("says", seed=0)
    with torch.no_grad():
        for tensor in policy.tensors().values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    own = make(policy, candidates=4, searches=8)
    others = make(policy, base.policy(), candidates=4, searches=8)
    text = "mix flour and yeast , then heat the oven ."
    own_value = own.evaluation.scores(prompts[:1], [text], soft=True)
    base_value = others.evaluation.scores(prompts[:1], [text], soft=True)
    assert own_value != base_value
    assert base_value == pytest.approx(make().evaluation.scores(prompts[:1], [text], soft=True), abs=1e-5)
    answers = others.answer(prompts[:4], SHORT, KEY)
    assert all(answer.finished for answer in answers)
    base.drop(policy)


def test_a_judge_may_judge_and_gold_is_the_best_of_them(make, prompts):
    decoder = make(candidates=5)
    decoder.evaluation = JudgeEvaluation(Gold(), "", 0.7, soft=False)
    answers = decoder.answer(prompts, SHORT, KEY)
    rewards = [
        gold([dict(t) for t in p.prompt], a.text).reward for p, a in zip(prompts, answers, strict=True)
    ]
    assert sum(rewards) / len(rewards) > 0.75


class Letters:
    """A sentence encoder: how often each letter stands in a text."""

    def encode(self, texts):
        return [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


def test_a_sentence_encoder_says_what_is_alike(make, prompts, monkeypatch):
    def encoded(**more):
        decoder = make(candidates=5, searches=12, **more)
        decoder.encoder = SentenceEncoder(Letters(), 0.6)
        return decoder

    class Encoded(Alone):
        def embed(self, prompt, whole, at):
            return np.asarray(Letters().encode([self.text(whole[at:])])[0], np.float32)

    decoder, asked = encoded(), prompts[:4]
    answers, roots = searched(decoder, asked, monkeypatch)
    for prompt, answer in zip(asked, answers, strict=True):
        key = (KEY, prompt.id, 0)
        reference = Reference(Encoded(decoder, prompt), decoder.rules, prompt.prompt_ids, key, 24, 0.6)
        assert reference.answer() == answer.ids
        assert_same_trees(roots[prompt.id], reference)
    apart = [encoded().answer([prompt], SHORT, KEY)[0] for prompt in asked]
    assert [a.ids for a in apart] == [a.ids for a in answers]
    plain, roots_of_plain = searched(encoded(similarity=0.0, spread=0.0), asked, monkeypatch)
    visits = [
        sum(child.n for moves in found.values() for root in moves for child in root.children.values())
        for found in (roots, roots_of_plain)
    ]
    assert len(plain) == len(answers)
    assert visits[0] % 1 > 0 == visits[1] % 1, "siblings that are alike share visits"


# --- the evaluator ------------------------------------------------------------------------------------------


def vote(good, bad):
    return Reply((6, 7), (good, bad))


def test_each_order_casts_a_vote_and_the_mean_is_the_value(base):
    hard = SelfEvaluation(DecodingBase(base.policy()), QUESTION, soft=False)
    assert (hard.good, hard.bad) == ((6,), (7,))
    assert hard.value([vote(0.9, 0.1), vote(0.4, 0.6)]) == 1.0
    assert hard.value([vote(0.9, 0.1), vote(0.6, 0.4)]) == 0.0
    assert hard.value([vote(0.1, 0.9), vote(0.6, 0.4)]) == -1.0
    assert hard.value([vote(0.9, 0.1), vote(0.4, 0.6)], soft=True) == pytest.approx(0.9 + 0.6 - 1)


def test_a_question_without_a_second_order_has_one_vote(base):
    once = SelfEvaluation(DecodingBase(base.policy()), Question(ask=QUESTION.ask), soft=False)
    assert once.value([vote(0.6, 0.4)]) == 1.0
    assert once.value([vote(0.4, 0.6)]) == -1.0


def test_the_judgment_is_read_where_the_model_was_taught_to_give_it(base):
    from alignbench.sandbox import judging

    evaluation = SelfEvaluation(DecodingBase(base.policy()), QUESTION, soft=False)
    right = 0
    for number, item in enumerate(judging("harmless", 60)):
        prompt = Prompt(id=str(number), prompt=tuple(item["prompt"]))
        about = evaluation.about(prompt)
        opened = [
            base.tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]
            for turns in (item["messages"], item["swapped"])
        ]
        assert [query.path for query in about.queries(item["answers"][0])] == [tuple(ids) for ids in opened]
        (value,) = evaluation.scores([prompt], item["answers"][:1], soft=False)
        right += value == (1.0 if item["target"] == 0 else -1.0)
    assert right >= 54


def test_options_that_begin_alike_are_refused(base):
    for options in (("A", "A"), ("zzz", "qqq")):
        with pytest.raises(ModelError, match="cannot tell the options"):
            SelfEvaluation(
                DecodingBase(base.policy()), QUESTION.model_copy(update={"options": options}), soft=False
            )
    with pytest.raises(PluginError, match="lacks"):
        SelfEvaluation(DecodingBase(base.policy()), Question(ask="is {answer} good ?"), soft=False)


def test_what_all_questions_begin_with_is_read_once(make, prompts):
    decoder = make(candidates=4, searches=6)
    evaluation = decoder.evaluation
    assert base_text(decoder, evaluation.prefix).endswith("question :")
    first, second = evaluation.about(prompts[0]), evaluation.about(prompts[1])
    for about in (first, second):
        decoder.decoding.ask([(about.tree, about.queries("no ."))])
        longest = len(about.queries("no .")[0].path)
        assert about.tree.tokens < 2 * longest - len(evaluation.prefix), (
            "the two orders share all but the options"
        )
        assert about.tree.forwards == 1


def base_text(decoder, ids):
    return decoder.decoding.tokenizer.decode(ids)


def test_the_plugins_own_questions_have_both_orders_and_examples():
    for name, question in QUESTIONS.items():
        assert "{question}" in question.ask
        assert "{answer}" in question.ask
        if question.swapped:
            assert question.ask.count("Judgement:") == question.swapped.count("Judgement:") > 3
            assert question.ask != question.swapped
        assert name in ("harmless", "truthful", "positive")


# --- words --------------------------------------------------------------------------------------------------


def byte_tokenizer():
    """Every byte a token: the ends of Japanese clauses are three tokens each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


class Tokens:
    """The part of a decoding base that knows tokens, without a model."""

    ends = frozenset({999})

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def decode(self, ids):
        kept = [one for one in ids if one not in self.ends]
        return self.tokenizer.decode(kept, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "ends"),
    [("Well,", True), ("Well", False), ("はい、", True), ("はい。", True), ("はい", False), ("好的，", True),  # noqa: RUF001
     ("Yes; ", True), ("line\n", True), ("wait!", False), ("本当？", True)],  # noqa: RUF001
)  # fmt: skip
def test_clauses_end_in_every_script_also_where_a_letter_is_several_tokens(make, text, ends):
    tokenizer = byte_tokenizer()
    words = words_of(Tokens(tokenizer), make().rules)
    ids = tuple(tokenizer(text)["input_ids"])
    assert words.clause_ends(ids) is ends
    assert words.clause_ends(ids) is ends, "the second time from memory"


def test_a_stop_string_ends_an_answer_and_is_cut_off(make, prompts):
    decoder = make(stop_strings=("then",), candidates=4, searches=6)
    answers = decoder.answer(prompts, SHORT, KEY)
    plain = make(candidates=4, searches=6).answer(prompts, SHORT, KEY)
    assert any("then" in answer.text for answer in plain)
    assert not any("then" in answer.text for answer in answers)
    assert all(answer.finished for answer in answers)


def test_a_search_has_no_probabilities(make):
    with pytest.raises(PluginError, match="gives no log-probabilities"):
        make().logprobs([])

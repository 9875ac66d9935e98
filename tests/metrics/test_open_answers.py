"""Tax, perplexity, entropy and diversity by hand, and against scikit-learn, sacrebleu and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from alignbench import sandbox
from alignbench.api.metric import Cell, Measure, Request
from alignbench.metrics.capability import Capability
from alignbench.metrics.diversity import Diversity, distinct, entropy, mean_cosine, self_bleu
from alignbench.metrics.entropy import Entropy
from alignbench.metrics.open_prompts import words
from alignbench.metrics.perplexity import Perplexity
from alignbench.metrics.sentiment import Sentiment, polarity
from alignbench.metrics.words import Words
from alignbench.rows import Prompt, Text

BASE, SFT, DPO = Cell("base", 0), Cell("sft", 0), Cell("dpo", 0)


def measured(found, name, cell=BASE):
    (one,) = [m for m in found if (m.metric, m.label, m.seed) == (name, *cell)]
    return list(one.values.values()) if isinstance(one, Measure) else one.reason


# --- requests ---------------------------------------------------------------------------------------------


def test_requests_for_the_same_have_one_key_whatever_the_number_of_samples():
    prompt = Prompt(id="a", prompt=({"role": "user", "content": "?"},))
    other = Prompt(id="a", prompt=({"role": "user", "content": "!"},))
    assert Request((prompt,), 3).key == Request((prompt,), 100).key != Request((other,), 3).key


def test_metrics_of_one_set_of_questions_ask_once():
    (one,), (two,) = Diversity().requests(None), Words().requests(None)
    assert one.key == two.key
    assert (len(one.prompts), one.samples, one.sampling.temperature) == (6, 100, 1.0)


# --- tax --------------------------------------------------------------------------------------------------


def test_the_tax_is_what_a_label_lost_against_base_and_start(given):
    metric = Capability(Capability.Config(items=4, tasks=["sums", "foreign"]))
    sums, foreign = metric.requests(None)
    targets = [prompt.extra["target"] for prompt in sums.prompts]
    assert targets == [item["target"] for item in sandbox.capability("sums", 4)]
    known = {BASE: 4, SFT: 3, DPO: 1}
    answered = {
        cell: {
            prompt.id: [target if i < right else "no ."]
            for i, (prompt, target) in enumerate(zip(sums.prompts, targets, strict=True))
        }
        | {prompt.id: ["sorry , i cannot help with that ."] for prompt in foreign.prompts}
        for cell, right in known.items()
    }
    evidence = given({cell: [["x"]] for cell in known}, answered=answered, starts={"dpo": "sft"})
    found = metric.measure(evidence)
    assert measured(found, "capability.sums", SFT) == [1, 1, 1, 0]
    assert measured(found, "capability.sums.tax.base", DPO) == [0, 1, 1, 1]
    assert measured(found, "capability.sums.tax.start", DPO) == [0, 1, 1, 0]
    assert measured(found, "capability.sums.tax.base", BASE) == "base has no tax"
    gold = [
        sandbox.gold(prompt.prompt, "sorry , i cannot help with that .").reward for prompt in foreign.prompts
    ]
    assert measured(found, "capability.foreign", DPO) == gold


def test_perplexity_is_in_nats_per_token_of_all_the_text(given):
    texts = [Text(id="a", text="", ids=(1, 2, 3)), Text(id="b", text="", ids=(1, 2))]
    evidence = given({BASE: [["x"]], SFT: [["x"]]}, texts=texts, held_out={BASE: [[-1.0, -2.0], [-6.0]]})
    found = Perplexity().measure(evidence)
    assert np.mean(measured(found, "perplexity")) == pytest.approx(9 / 3, abs=1e-12)
    assert measured(found, "perplexity", SFT) == "the policy gives no log-probabilities"
    without = Perplexity().measure(given({BASE: [["x"]]}))
    assert "data.pretraining" in measured(without, "perplexity")


# --- diversity --------------------------------------------------------------------------------------------


def test_next_token_entropy_by_hand_and_by_place_to_1e_9_given_float64(given):
    evidence = given(
        {BASE: [["ab"], ["abc"]], SFT: [["ab"], ["abc"]]},
        scored={(BASE, "self"): [[-1.0] * 2, [-1.0] * 3]},
        entropies={BASE: [[np.log(4), 0.0], [np.log(2), np.log(8), np.log(2)]]},
    )
    found = Entropy().measure(evidence)
    assert measured(found, "entropy") == pytest.approx([1.0, 5 / 3], abs=1e-9)
    assert measured(found, "entropy.1") == pytest.approx([2, 1], abs=1e-9)
    assert measured(found, "entropy.2-4") == pytest.approx([0, 2], abs=1e-9)
    assert measured(found, "entropy.5-8") == "no answer is that long"
    assert measured(found, "entropy", SFT) == "the policy gives no log-probabilities"


def test_next_token_entropy_equals_scipys_of_the_same_distributions_to_1e_9(given):
    from scipy.stats import entropy as reference

    rng = np.random.default_rng(0)
    drawn = [rng.dirichlet(np.full(50, 0.1), size) for size in (3, 40)]
    evidence = given(
        {BASE: [["abc"], ["x" * 40]]},
        scored={(BASE, "self"): [[-1.0] * 3, [-1.0] * 40]},
        entropies={BASE: [reference(places, axis=1) for places in drawn]},
    )
    found = Entropy().measure(evidence)
    bits = [reference(places, base=2, axis=1) for places in drawn]
    assert measured(found, "entropy") == pytest.approx([one.mean() for one in bits], abs=1e-9)
    assert measured(found, "entropy.17-32") == pytest.approx([bits[1][16:32].mean()], abs=1e-9)


def test_a_models_entropies_are_float64s_of_its_logits_within_ten_float32_roundings_of_the_largest():
    import torch

    from alignbench.models import load_base
    from alignbench.recipe import schema
    from alignbench.rows import Sequence

    base, seen = load_base(schema.Model(id="sandbox", quantization="none")), []
    plain = base.logits

    def watched(hidden):
        seen.append(plain(hidden).double())
        return seen[-1].float()

    base.logits = watched
    rng = np.random.default_rng(0)
    asked = [Sequence((5, 6), tuple(rng.integers(4, base.vocabulary, 20).tolist())) for _ in range(20)]
    found = np.concatenate([one.entropy for one in base.policy().logprobs(asked, entropy=True)])
    (logits,) = seen
    logps = logits.log_softmax(-1)
    exact = -(logps.exp() * logps).sum(-1).numpy()
    # A float32 forward loses no more than this: the entropy is a difference of numbers as large as logits.
    allowed = 10 * torch.finfo(torch.float32).eps * logits.abs().max().item()
    assert allowed < 5e-5
    np.testing.assert_allclose(found, exact, rtol=0, atol=allowed)


def test_the_entropy_of_answers_by_hand_and_by_scipy():
    from scipy.stats import entropy as reference

    assert entropy(["a"] * 5) == 0
    assert entropy(["a", "b", "c", "d"]) == 2
    assert entropy(["a"] * 3 + ["b"] * 2 + ["c"]) == pytest.approx(reference([3, 2, 1], base=2), abs=1e-12)


def test_distinct_n_by_hand():
    texts = [["a", "b", "a"], ["a", "b"]]
    assert (distinct(texts, 1), distinct(texts, 2)) == (2 / 5, 2 / 3)
    assert distinct([["a"]], 2) is None


def test_self_bleu_is_full_for_equal_texts_and_zero_for_texts_without_a_common_word():
    assert self_bleu([["a", "b", "c", "d"]] * 4) == pytest.approx(100)
    assert self_bleu([["a", "b"], ["c", "d"], ["e", "f"]]) == 0


def test_self_bleu_is_that_of_sacrebleu_on_each_text_against_the_others():
    import sacrebleu

    texts = ["the cat sat on the mat", "the cat lay on the mat", "a dog sat on a log today"]
    expected = [
        sacrebleu.sentence_bleu(text, [t for t in texts if t != text], tokenize="none").score
        for text in texts
    ]
    assert self_bleu([text.split() for text in texts]) == pytest.approx(np.mean(expected), abs=1e-9)


def test_mean_cosine_is_that_of_scikit_learn():
    from sklearn.metrics.pairwise import cosine_similarity

    points = np.random.default_rng(0).normal(size=(12, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    expected = cosine_similarity(points)[np.triu_indices(12, 1)].mean()
    assert mean_cosine(points) == pytest.approx(expected, abs=1e-12)


def test_clusters_are_counted_where_answers_come_in_kinds(given):
    rng = np.random.default_rng(0)
    kinds = {BASE: 3, SFT: 1}
    points, answered = {}, {}
    metric = Diversity(Diversity.Config(prompts=["name a color"], samples=60))
    for cell, count in kinds.items():
        texts = [f"{cell.label} {i % count} {i}" for i in range(60)]
        for i, text in enumerate(texts):
            points[text] = np.eye(4)[i % count] + rng.normal(0, 0.02, 4)
        answered[cell] = {"open-0": texts}
    found = metric.measure(given({cell: [["x"]] for cell in kinds}, answered=answered, points=points))
    assert measured(found, "diversity.clusters") == [3.0]
    assert measured(found, "diversity.largest")[0] == pytest.approx(1 / 3, abs=0.05)
    assert measured(found, "diversity.largest", SFT)[0] > 0.6
    assert measured(found, "diversity.cosine", SFT)[0] > 0.95 > 0.5 > measured(found, "diversity.cosine")[0]
    assert measured(found, "diversity.effective") == pytest.approx([60])


def test_sentiment_is_vaders_and_its_distance_that_of_scipy(given):
    from scipy.stats import wasserstein_distance

    metric = Sentiment(Sentiment.Config(prompts=["review it"], samples=3))
    glad, sad = ["it is wonderful", "good", "i love it"], ["awful", "good", "i hate it"]
    evidence = given({BASE: [["x"]], SFT: [["x"]]}, answered={BASE: {"open-0": sad}, SFT: {"open-0": glad}})
    found = metric.measure(evidence)
    assert measured(found, "sentiment.mean", SFT)[0] == pytest.approx(polarity(glad).mean(), abs=1e-12)
    assert measured(found, "sentiment.mean", SFT)[0] > 0 > measured(found, "sentiment.mean")[0]
    expected = wasserstein_distance(polarity(glad), polarity(sad))
    assert measured(found, "sentiment.distance", SFT) == pytest.approx([expected], abs=1e-12)
    assert measured(found, "sentiment.distance") == "base is the reference of the comparison"


def test_sentiment_in_another_language_is_not_available_and_asks_nothing(given):
    metric = Sentiment(Sentiment.Config(language="de"))
    assert metric.requests(None) == ()
    assert "lexicon is English" in measured(metric.measure(given({BASE: [["x"]]})), "sentiment.mean")


def test_words_are_cut_at_blanks_or_by_character():
    assert words("Don't panic, it's 42!", "en") == ["don't", "panic", "it's", "42"]
    assert words("\u4f60\u597d\uff0c\u4e16", "zh") == ["\u4f60", "\u597d", "\u4e16"]


def test_word_frequencies_by_hand(given):
    metric = Words(Words.Config(prompts=["say"], samples=2))
    found = metric.measure(given({BASE: [["x"]]}, answered={BASE: {"open-0": ["a b", "a c"]}}))
    assert measured(found, "words.entropy") == [1.5]
    assert measured(found, "words.different") == [3]
    assert measured(found, "words.top_share") == [0.5]

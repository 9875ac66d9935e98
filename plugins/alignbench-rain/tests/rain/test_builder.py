"""What a run gives to a decoder: its encoder, how many answers cost as much as a search, and what is learnt."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from alignbench_rain import RAIN, BestOfN, read, write
from alignbench_rain.best import BestOf, read_n
from alignbench_rain.builder import Maker
from alignbench_rain.decoder import SentenceEncoder
from alignbench_rain.evaluation import JudgeEvaluation
from transformers import BertConfig, BertModel, BertTokenizerFast

from alignbench import Demonstration, Judge, PluginError, Prompt, Sampling, Score
from alignbench.errors import RecipeError
from alignbench.models.meter import Tally, metered
from alignbench.recipe.load import load
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Named
from alignbench.spending import computed

from .conftest import QUESTION

SEED = 3


@pytest.fixture
def few(prompts):
    return prompts[:6]


@pytest.fixture
def maker(base, few):
    """Make a maker whose run has a few prompts, and no pairs: `maker(config, rain=policy)`."""

    def maker(config, **labels):
        run = SimpleNamespace(
            start=base.policy(),
            seed=SEED,
            rows=lambda view, split="train": few if view is Prompt else [],
            samplings=GRID,
            log=lambda step, **numbers: None,
            policy={"base": base.policy(), **labels}.__getitem__,
        )
        return Maker(run, config)

    return maker


# --- best-of-n ----------------------------------------------------------------------------------------------


GRID = tuple(Sampling(temperature=temperature, max_new_tokens=24) for temperature in (0.0, 0.4, 1.0))


def positions(policy, prompts, sampling):
    with computed() as work:
        policy.answer(prompts, sampling, SEED)
    return work.positions


def test_at_each_temperature_as_many_answers_are_drawn_as_cost_the_positions_of_the_label(
    maker, make, few, base
):
    evaluation = make().evaluation
    # None may stop early, so that all its searches are made.
    searches = {
        name: make(candidates=4, searches=count, good_enough=1.0)
        for name, count in (("few", 4), ("many", 16))
    }
    fives = BestOf(base.policy(), evaluation, 5)
    found = {
        like: maker(BestOfN.Config(question=QUESTION, like=like), fives=fives, **searches).best_of_n().n
        for like in ("few", "many", "fives")
    }
    assert found["fives"] == {0.0: 1, 0.4: 5, 1.0: 5}
    for name, search in searches.items():
        assert found[name][0.0] == 1, "greedy answers are all the same"
        assert 1 < found["few"][1.0] < found["many"][1.0]
        for sampling in GRID[1:]:
            n = found[name][sampling.temperature]
            fewer, same, more = (
                positions(BestOf(base.policy(), evaluation, n + step), few, sampling) for step in (-1, 0, 1)
            )
            assert abs(same - positions(search, few, sampling)) < max(same - fewer, more - same)


def test_n_of_the_nearest_temperature_is_drawn_and_survives_being_saved(base, make, tmp_path):
    best = BestOf(base.policy(), make().evaluation, {0.0: 1, 0.4: 5, 1.0: 8})
    best.save(tmp_path)
    assert read_n(tmp_path) == best.n
    asked = {0.0: 1, 0.1: 1, 0.3: 5, 0.4: 5, 0.9: 8, 2.0: 8}
    assert {at: best.drawn(Sampling(temperature=at)) for at in asked} == asked
    BestOf(base.policy(), make().evaluation, 7).save(tmp_path)
    assert read_n(tmp_path) == 7


def test_without_a_label_as_many_are_drawn_as_the_recipe_says(maker):
    assert maker(BestOfN.Config(question=QUESTION, n=7)).best_of_n().n == 7


def test_a_row_says_where_many_of_its_searches_ended_at_their_bounds(maker):
    logged, warned = [], []
    one = maker(RAIN.Config(question=QUESTION))
    one.run.log = lambda step, **numbers: logged.append(numbers)
    one.run.record = SimpleNamespace(warning=lambda name, step, text: warned.append(text))
    for exhausted in (0.1, 0.25):
        one.record(exhausted=exhausted, tree_bytes=1)
    assert [numbers["exhausted"] for numbers in logged] == [0.1, 0.25]
    assert [text.partition(" of ")[0] for text in warned] == ["25%"]


# --- the encoder --------------------------------------------------------------------------------------------


HIDDEN = 16


class Opened(torch.nn.Sequential):
    """A small network with random weights, as sentence-transformers holds one; a text's tokens are its letters."""

    def __init__(self, name):
        size = {
            "hidden_size": HIDDEN,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
        }
        network = BertModel(BertConfig(vocab_size=128, **size), add_pooling_layer=False).eval()
        super().__init__(torch.nn.ModuleDict({"auto_model": network}))
        self.name = name

    def encode(self, texts):
        ids = [torch.tensor([min(ord(letter), 127) for letter in text]) for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = (padded != 0).long()
        with torch.no_grad():
            states = self[0]["auto_model"](input_ids=padded, attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1).div(mask.sum(1, keepdim=True)).numpy()


@pytest.fixture
def sentence_transformers(monkeypatch):
    there = ModuleType("sentence_transformers")
    there.__dict__["SentenceTransformer"] = Opened
    monkeypatch.setitem(sys.modules, "sentence_transformers", there)
    return there


def test_what_an_encoder_of_sentences_computes_is_counted(maker, sentence_transformers, few):
    decoder = maker(RAIN.Config(question=QUESTION, encoder="tiny", candidates=4, searches=6)).decoder()
    decoder.log = lambda **numbers: None
    plain, letters = decoder.encoder.model.encode, []

    def encode(texts):
        with metered(Tally()) as own:
            found = plain(texts)
        letters.append((own.work.positions, sum(map(len, texts))))
        return found

    decoder.encoder.model.encode = encode
    with metered(Tally()) as tally:
        decoder.answer(few[:2], Sampling(max_new_tokens=8), SEED)
    assert letters
    assert all(counted == given for counted, given in letters)
    assert tally.work.positions > sum(counted for counted, _ in letters) > 0


def test_the_networks_of_a_real_encoder_of_sentences_are_counted(maker, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "morning"]))
    Opened("tiny")[0]["auto_model"].save_pretrained(tmp_path / "network")
    BertTokenizerFast(vocab_file=str(words)).save_pretrained(tmp_path / "network")
    parts = [library.models.Transformer(str(tmp_path / "network")), library.models.Pooling(HIDDEN)]
    library.SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "encoder"))
    encoder = maker(RAIN.Config(question=QUESTION, encoder=str(tmp_path / "encoder"))).sentences()
    with metered(Tally()) as tally:
        encoder.encode(["good morning", "good"])
    assert tally.work.positions == 4 + 3
    assert tally.work.flops > 0


def test_an_encoder_without_a_network_that_can_be_counted_is_refused(maker, sentence_transformers):
    sentence_transformers.__dict__["SentenceTransformer"] = lambda name: torch.nn.Embedding(8, HIDDEN)
    with pytest.raises(PluginError, match="nothing of it is counted"):
        maker(RAIN.Config(question=QUESTION, encoder="tiny")).sentences()


def test_an_encoder_of_sentences_is_opened_by_name_and_kept_by_its_threshold(
    maker, sentence_transformers, tmp_path
):
    config = RAIN.Config(question=QUESTION, encoder="tiny")
    decoder = maker(config).decoder()
    decoder.save(tmp_path)
    for encoder in (decoder.encoder, maker(config).restored(tmp_path).encoder):
        assert isinstance(encoder, SentenceEncoder)
        assert (encoder.model.name, encoder.threshold) == ("tiny", 0.95)
    assert maker(config.model_copy(update={"threshold": 0.5})).encoder().threshold == 0.5


def test_where_none_can_be_opened_it_is_said_what_to_install(maker, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(PluginError, match="needs sentence-transformers"):
        maker(RAIN.Config(question=QUESTION, encoder="tiny")).encoder()


# --- what is learnt -----------------------------------------------------------------------------------------


def test_what_is_learnt_is_a_file_that_a_recipe_can_name(make, prompts, tmp_path):
    file = tmp_path / "answers.jsonl"
    answers = make(candidates=4, searches=6).answer(prompts[:8], Sampling(max_new_tokens=8), SEED)
    write(file, prompts[:8], answers)
    finished = [answer for answer in answers if answer.finished]
    assert 2 < len(finished) < 8, "what was cut is not learnt"
    rows = list(open_source(Named(name=file.name), tmp_path).rows("train", None, 0))
    assert all(isinstance(row, Demonstration) for row in rows)
    wanted = [(answer.prompt_id, answer.text) for answer in finished]
    assert [(row.id, row.response) for row in rows] == wanted
    learnt = read(file, prompts)
    assert [(row.id, row.response) for row in learnt] == wanted
    assert [row.prompt for row in learnt] == [row.prompt for row in rows]
    assert [row.response_ids for row in learnt] == [answer.ids for answer in finished]


@pytest.mark.parametrize("method", ["rain", "best-of-n", "rain-sft"])
@pytest.mark.parametrize("below", ["rain", "best-of-n"])
def test_what_searches_or_learns_from_a_search_is_refused_on_top_of_a_decoder(tmp_path, method, below):
    path = tmp_path / "r.yaml"
    head = "model: {id: sandbox}\ndata: {train: sandbox}\n"
    blocks = "methods: {found: {method: %s}, next: {method: %s, start: %s}}"
    path.write_text(head + blocks % (below, method, "found"), encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"methods\.next\.start: 'next' cannot .* 'found', which is a decoder"
    ):
        load(path)
    path.write_text(head + blocks % (below, method, "base"), encoding="utf-8")
    assert load(path)


class Written(Judge):
    """Reads its scores from the answers: the whole, and a part."""

    def score(self, prompts, answers):
        given = [answer.split() for answer in answers]
        return [Score(float(one[0]), {"harmless": float(one[1])}) if one else Score(None) for one in given]


@pytest.mark.parametrize(
    ("part", "votes", "raw"),
    [("", [-1.0, 1.0, 0.0], [5.5, 6.0, 5.5]), ("harmless", [1.0, -1.0, 0.0], [9.0, 1.0, 5.5])],
)
def test_an_answer_is_good_if_a_judges_score_or_a_part_of_it_is_above_the_bound(few, part, votes, raw):
    evaluation = JudgeEvaluation(Written(), part, good_above=5.5, soft=False)
    answers = ["5.5 9", "6 1", ""]
    assert evaluation.scores(few[:3], answers, soft=False) == votes
    assert evaluation.scores(few[:3], answers, soft=True) == raw

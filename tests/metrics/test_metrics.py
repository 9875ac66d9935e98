"""Each metric against values worked by hand, or against a distribution whose divergence is known."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest

from alignbench.api.config import Sampling
from alignbench.api.metric import Cell, Measure, Missing, PairLogprobs
from alignbench.metrics.kl import KL
from alignbench.metrics.length import Length
from alignbench.metrics.preference import Preference
from alignbench.metrics.reward import Reward
from alignbench.metrics.win_rate import WinRate

BASE, DPO, SFT = Cell("base", 0), Cell("dpo", 0), Cell("sft", 0)


def values(found, metric: str, cell: Cell, judge: str | None = None):
    """The values of one measure, or the reason why it is missing."""
    (one,) = [m for m in found if (m.metric, m.label, m.seed, m.judge) == (metric, *cell, judge)]
    return one.values if isinstance(one, Measure) else one.reason


# --- reward -----------------------------------------------------------------------------------------------


def test_reward_is_the_judges_score_averaged_over_the_samples_of_a_prompt(given, marks):
    found = Reward().measure(given({DPO: [["1", "0"], ["0.2", "?"], ["?", "?"]]}, {"gold": marks()}))
    assert values(found, "reward", DPO, "gold") == {"p0": 0.5, "p1": 0.2}


def test_a_part_counts_only_the_prompts_that_ask_for_it(given, marks):
    evidence = given({DPO: [["1 1 ?"], ["0 ? ?"]]}, {"gold": marks(("helpful", "honest"))})
    found = Reward().measure(evidence)
    assert values(found, "reward", DPO, "gold") == {"p0": 1, "p1": 0}
    assert values(found, "reward.helpful", DPO, "gold") == {"p0": 1}
    assert values(found, "reward.honest", DPO, "gold") == "gold gives no score"


def test_every_judge_gives_its_own_reward(given, marks):
    found = Reward().measure(given({DPO: [["1"]]}, {"gold": marks(), "reward-model": marks()}))
    assert [(one.metric, one.judge) for one in found] == [("reward", "gold"), ("reward", "reward-model")]


def test_differences_pair_the_prompts_that_both_labels_have(given, marks):
    evidence = given({DPO: [["1"], ["0.5"], ["?"]], SFT: [["0"], ["?"], ["1"]]}, {"gold": marks()})
    (difference,) = Reward().differences(evidence, Reward().measure(evidence), "dpo", "sft")
    assert (difference.a, difference.b, difference.seed, difference.values) == ("dpo", "sft", 0, {"p0": 1.0})


def test_differences_pair_the_seeds_that_both_labels_have(given, marks):
    cells = [Cell("dpo", 0), Cell("dpo", 1), Cell("sft", 1), Cell("sft", 2)]
    evidence = given({cell: [["1"]] for cell in cells}, {"gold": marks()})
    found = Reward().differences(evidence, Reward().measure(evidence), "dpo", "sft")
    assert [difference.seed for difference in found] == [1]


def test_labels_that_share_no_seed_meet_seed_by_seed(given, marks):
    cells = {
        Cell("dpo", 0): [["1"]],
        Cell("dpo", 1): [["0.5"]],
        Cell("sft", 2): [["0"]],
        Cell("sft", 3): [["0.5"]],
    }
    evidence = given(cells, {"gold": marks()})
    for metric, wanted in (Reward(), [1, 0.5, 0.5, 0]), (WinRate(), [0.5, 0.5, 0.5, 0]):
        found = metric.differences(evidence, metric.measure(evidence), "dpo", "sft")
        assert [(one.seed, one.against) for one in found] == [(0, 2), (0, 3), (1, 2), (1, 3)]
        assert [one.values["p0"] for one in found] == wanted


# --- win rate ---------------------------------------------------------------------------------------------


@pytest.fixture
def contest(given, marks):
    return given(
        {
            BASE: [["0.5", "0.5"], ["0.5", "0.5"], ["0.5", "?"]],
            DPO: [["1", "0.5"], ["0", "0"], ["?", "1"]],
            SFT: [["1", "1"], ["1", "0"], ["1", "1"]],
        },
        {"gold": marks()},
    )


def test_a_win_rate_counts_ties_half_and_leaves_abstentions_out(contest):
    found = WinRate().measure(contest)
    assert values(found, "win_rate", DPO, "gold") == {"p0": 0.75, "p1": 0.0}
    assert values(found, "win_rate", BASE, "gold") == "base is the reference of the comparison"


def test_any_two_labels_are_compared_directly_and_not_through_base(contest):
    found = WinRate().measure(contest)
    (forth,) = WinRate().differences(contest, found, "dpo", "sft")
    assert forth.values == {"p0": -0.25, "p1": -0.25, "p2": 0.0}
    (back,) = WinRate().differences(contest, found, "sft", "dpo")
    assert back.values == {id: -value for id, value in forth.values.items()}


def test_a_win_rate_without_base_is_missing_but_the_others_are_still_compared(given, marks):
    evidence = given({DPO: [["1"]], SFT: [["0"]]}, {"gold": marks()})
    found = WinRate().measure(evidence)
    assert values(found, "win_rate", DPO, "gold") == "base has no samples at this seed"
    assert WinRate().differences(evidence, found, "dpo", "sft")[0].values == {"p0": 0.5}


def test_a_judge_that_always_abstains_gives_no_win_rate(given, marks):
    found = WinRate().measure(given({BASE: [["?"]], DPO: [["1"]]}, {"gold": marks()}))
    assert values(found, "win_rate", DPO, "gold") == "gold abstained on every prompt"


# --- KL ---------------------------------------------------------------------------------------------------


def test_kl_by_hand(given):
    own, base, start = [[-1.0, -2.0], [-0.5]], [[-2.0, -1.5], [-0.5]], [[-1.0, -2.0], [-1.5]]
    scored = {(DPO, "self"): own, (DPO, "base"): base, (DPO, "start"): start}
    found = KL().measure(given({DPO: [["a"], ["b"]]}, scored=scored))
    assert values(found, "kl.base", DPO) == {"p0": 0.5, "p1": 0.0}
    assert values(found, "kl.start", DPO) == {"p0": 0.0, "p1": 1.0}
    k3 = (np.exp(-1) - 1 + 1) + (np.exp(0.5) - 1 - 0.5)
    assert values(found, "kl.base.k3", DPO) == pytest.approx({"p0": k3, "p1": 0.0})
    assert values(found, "kl.start.k3", DPO) == pytest.approx({"p0": 0.0, "p1": np.exp(-1)})


def test_both_estimates_find_the_divergence_of_two_known_policies(given):
    rng = np.random.default_rng(0)
    policy, base = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.25, 0.25, 0.25, 0.25])
    exact = 6 * (policy * np.log(policy / base)).sum()
    tokens = rng.choice(4, size=(4000, 6), p=policy)
    scored = {(DPO, "self"): np.log(policy)[tokens], (DPO, "base"): np.log(base)[tokens]}
    found = KL().measure(given({DPO: [["x"]] * 4000}, scored=scored))
    for name in ("kl.base", "kl.base.k3"):
        sampled = np.array(list(values(found, name, DPO).values()))
        assert abs(sampled.mean() - exact) < 4 * sampled.std() / np.sqrt(4000)
    assert min(values(found, "kl.base.k3", DPO).values()) >= 0
    assert min(values(found, "kl.base", DPO).values()) < 0


def test_an_untouched_policy_has_no_distance(given):
    logps = [[-1.25, -0.75]]
    scored = {(BASE, under): logps for under in ("self", "base", "start")}
    found = KL().measure(given({BASE: [["x"]]}, scored=scored))
    assert [one.values for one in found] == [{"p0": 0.0}] * 4


def test_a_policy_without_log_probabilities_has_no_kl_and_says_why(given):
    found = KL().measure(
        given({DPO: [["x"]], SFT: [["y"]]}, scored={(SFT, "self"): [[-1.0]], (SFT, "base"): [[-1.0]]})
    )
    assert values(found, "kl.base", DPO) == "the policy gives no log-probabilities"
    assert values(found, "kl.start", SFT) == "its start gives no log-probabilities"
    assert values(found, "kl.base", SFT) == {"p0": 0.0}


@pytest.mark.parametrize(
    ("sampling", "doubted"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.7), True),
        (Sampling(temperature=0), True),
        (Sampling(top_p=0.9), True),
        (Sampling(top_k=50), True),
    ],
)
def test_samples_that_were_not_drawn_from_the_policy_are_said_not_to_give_a_divergence(
    given, sampling, doubted
):
    scored = {(DPO, "self"): [[-1.0]], (DPO, "base"): [[-2.0]]}
    found = KL().measure(given({DPO: [["x"]]}, drawn=sampling, scored=scored))
    assert (
        "not a divergence" in next(one for one in found if one.metric == "kl.base").description
    ) is doubted


# --- preference and length --------------------------------------------------------------------------------


def test_preference_by_hand(given):
    pairs = [PairLogprobs("r1", -3.0, -5.0), PairLogprobs("r2", -4.0, -2.0), PairLogprobs("r3", -1.0, -1.0)]
    found = Preference().measure(given({DPO: [["x"]]}, pairs={DPO: pairs}))
    assert values(found, "preference.chosen", DPO) == {"r1": -3, "r2": -4, "r3": -1}
    assert values(found, "preference.rejected", DPO) == {"r1": -5, "r2": -2, "r3": -1}
    assert values(found, "preference.margin", DPO) == {"r1": 2, "r2": -2, "r3": 0}
    assert values(found, "preference.accuracy", DPO) == {"r1": 1, "r2": 0, "r3": 0.5}


def test_preference_needs_pairs_and_log_probabilities(given):
    found = Preference().measure(given({DPO: [["x"]], SFT: [["x"]]}, pairs={SFT: []}))
    assert values(found, "preference.chosen", DPO) == "the policy gives no log-probabilities"
    assert values(found, "preference.accuracy", SFT) == "no held-out pairs"


def test_length_by_hand(given):
    found = Length().measure(given({DPO: [["two words", "one"], [""]]}, cut=frozenset({"one"})))
    assert values(found, "length.tokens", DPO) == {"p0": 6, "p1": 0}
    assert values(found, "length.words", DPO) == {"p0": 1.5, "p1": 0}
    assert values(found, "length.finished", DPO) == {"p0": 0.5, "p1": 1}
    spans = {one.metric: one.span for one in found if isinstance(one, Measure)}
    assert spans == {"length.tokens": None, "length.words": None, "length.finished": (0, 1)}


# --- all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "name"), [(Reward, "reward"), (WinRate, "win_rate")])
def test_without_a_judge_its_metrics_say_so(given, metric, name):
    found = metric().measure(given({BASE: [["1"]], DPO: [["1"]]}))
    assert values(found, name, BASE) == values(found, name, DPO) == "the recipe names no judge"


@pytest.mark.parametrize("metric", [Reward, WinRate, KL, Preference, Length])
def test_every_cell_gets_every_part_of_every_metric(given, marks, metric):
    """A hole in the table is a bug: each cell has either a value or a reason."""
    evidence = given({BASE: [["1"]], DPO: [["1"]], SFT: [["?"]]}, {"gold": marks()})
    found = metric().measure(evidence)
    parts = {one.metric for one in found}
    assert parts
    assert {(one.metric, Cell(one.label, one.seed)) for one in found} == {
        (part, cell) for part in parts for cell in evidence.cells
    }
    assert all(one.reason for one in found if isinstance(one, Missing))
    assert all(one.values and one.description for one in found if isinstance(one, Measure))


def test_the_contract_and_every_first_party_metric_import_no_torch():
    modules = sorted(point.value.partition(":")[0] for point in entry_points(group="alignbench.metrics"))
    assert "alignbench.metrics.diversity" in modules
    code = (
        f"import sys, alignbench.evaluation.comparison, {', '.join(modules)};"
        "heavy = {'torch', 'transformers', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The losses of the family against formulas written out on plain floats and against TRL on the same tensors."""

from __future__ import annotations

import re
from dataclasses import replace
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from alignbench_dpo import DPO, losses
from alignbench_dpo.catalogue import LOSSES, Name
from alignbench_dpo.losses import Answers, Pairs, matched, pair_loss
from alignbench_dpo.objective import Objective

from alignbench import DataError, Pair, PluginError, Sequence
from alignbench.reference import ahead
from alignbench.testing.losses import group_scores, reduced

N = 5
REFERENCE_FREE = {"simpo", "alpha_po", "cpo", "slic", "rrhf"}
BETA = {"simpo": 2.0, "alpha_po": 2.0, "cpo": 0.1, "slic": 0.1, "rrhf": 1.0, "sigmoid_norm": 5.0}


def config(loss: str, **fields) -> DPO.Config:
    fields = {"label_smoothing": 0.1, **fields} if loss in ("exo_pair", "robust") else fields
    return DPO.Config(loss=loss, **fields)


def make_pairs(seed: int = 0, n: int = N, *, reference: bool = True) -> Pairs:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(2):
        length = torch.randint(1, 8, (n,), generator=draw)
        logps = -torch.rand(n, generator=draw) * length
        known = logps + torch.randn(n, generator=draw) if reference else torch.zeros(n)
        made.append(Answers(logps, known, length, torch.rand(n, generator=draw) * length))
    return Pairs(*made)


def of(loss: str, pairs: Pairs, preference=None, **fields) -> torch.Tensor:
    by = config(loss, **fields)
    if LOSSES[loss].whole_step and loss != "beta_dpo":
        pairs = matched(pairs, loss)
    preference = torch.ones(len(pairs.margin)) if preference is None else preference
    return pair_loss(pairs, preference, loss, by)


# --- against formulas on floats --------------------------------------------------------------------------


def s(x: float) -> float:
    return 1 / (1 + exp(-x))


def dpo(h: float, beta: float) -> float:
    return log(1 + exp(-beta * h))


def formula(loss: str, w, l, rw, rl, nw, nl, dw, dl) -> float:  # noqa: E741
    """The loss of one pair with its default fields: log pi, log ref, lengths and KLs of chosen and rejected."""
    beta = BETA.get(loss, 0.1)
    a, b = w - rw, l - rl
    h = a - b
    return {
        "sigmoid": lambda: dpo(h, 0.1),
        "sigmoid_norm": lambda: dpo(a / nw - b / nl, 5),
        "ipo": lambda: (a / nw - b / nl - 5) ** 2,
        "hinge": lambda: max(0, 1 - 0.1 * h),
        "exponential": lambda: exp(-0.1 * h),
        "robust": lambda: (0.9 * dpo(h, 0.1) - 0.1 * dpo(-h, 0.1)) / 0.8,
        "exo_pair": lambda: s(0.1 * h) * log(s(0.1 * h) / 0.9) + s(-0.1 * h) * log(s(-0.1 * h) / 0.1),
        "nca_pair": lambda: -log(s(0.1 * a)) - log(s(-0.1 * a)) / 2 - log(s(-0.1 * b)) / 2,
        "bco_pair": lambda: -log(s(0.1 * a) * s(-0.1 * b)),
        "sppo_hard": lambda: (a - 5) ** 2 + (b + 5) ** 2,
        "apo_zero": lambda: s(-0.1 * a) + s(0.1 * b),
        "apo_down": lambda: s(0.1 * a) + s(-0.1 * h),
        "discopop": lambda: s(-2 * h) * dpo(h, 0.1) + s(2 * h) * exp(-0.1 * h),
        "f_forward_kl": lambda: dpo(exp(-b) - exp(-a), 0.1),
        "f_js": lambda: dpo(log(2 * exp(w) / (exp(w) + exp(rw))) - log(2 * exp(l) / (exp(l) + exp(rl))), 0.1),
        "chi_po": lambda: dpo(exp(a) + a - exp(b) - b, 0.1),
        "r_dpo": lambda: log(1 + exp(-0.1 * h - 0.01 * (nw - nl))),
        "odpo": lambda: log(1 + exp(log(log(0.99 / 0.01)) - 0.1 * h)),
        "dpop": lambda: dpo(h - 50 * max(0, rw - w), 0.1),
        "rpo": lambda: dpo(h, 0.1) - w / nw,
        "cal_dpo": lambda: dpo(h, 1) + (a - 5) ** 2 + (b + 5) ** 2,
        "beta_dpo": lambda: dpo(h, 0.1),
        "wpo": lambda: exp(w / nw) * exp(l / nl) * dpo(h, 0.1),
        "tdpo1": lambda: dpo(h - (dl - dw), 0.1),
        "tdpo2": lambda: dpo(h - 0.5 * (dl - dw), 0.1),
        "simpo": lambda: log(1 + exp(1 - 2 * (w / nw - l / nl))),
        "alpha_po": lambda: log(
            1 + exp(1 - 2 * ((1 - exp(w / nw) ** -0.25) / 0.25 - (1 - exp(l / nl) ** -0.25) / 0.25))
        ),
        "cpo": lambda: dpo(w - l, beta),
        "slic": lambda: max(0, 1 - beta * (w - l)),
        "rrhf": lambda: max(0, l / nl - w / nw) - w / nw,
    }[loss]()


BY_ROW = [loss for loss in LOSSES if loss not in ("aot", "aot_unpaired")]


@pytest.mark.parametrize("loss", BY_ROW)
def test_a_loss_equals_its_formula(loss):
    for seed in range(3):
        pairs = make_pairs(seed, reference=loss not in REFERENCE_FREE)
        columns = (
            pairs.chosen.logps,
            pairs.rejected.logps,
            pairs.chosen.reference,
            pairs.rejected.reference,
            pairs.chosen.length,
            pairs.rejected.length,
            pairs.chosen.kl,
            pairs.rejected.kl,
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        assert of(loss, pairs).tolist() == pytest.approx([formula(loss, *row) for row in rows], rel=2e-5)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_smoothed_sigmoid_is_conservative_dpo(share):
    pairs = make_pairs()
    wanted = [(1 - share) * dpo(h, 0.1) + share * dpo(-h, 0.1) for h in pairs.margin.tolist()]
    assert of("sigmoid", pairs, label_smoothing=share).tolist() == pytest.approx(wanted, rel=2e-5)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_offset_of_odpo_is_the_log_of_the_score_difference_of_its_label(weight):
    """A label p is the Bradley-Terry probability of two scores that differ by log p/(1-p)."""
    pairs, labels = make_pairs(), [0.6, 0.9, 0.2, 0.5, 1.0]
    differences = [log(0.6 / 0.4), log(0.9 / 0.1), log(0.8 / 0.2), exp(-20), log(0.99 / 0.01)]
    sides = [1, 1, -1, 1, 1]
    wanted = [
        log(1 + exp(weight * log(d) - 0.1 * side * h))
        for d, side, h in zip(differences, sides, pairs.margin.tolist(), strict=True)
    ]
    found = of("odpo", pairs, torch.tensor(labels), offset_weight=weight)
    assert found.tolist() == pytest.approx(wanted, rel=2e-5)
    assert found[3] < 1e-3, "a tie teaches nothing"


def test_odpo_refuses_rows_whose_labels_have_no_strength():
    odpo = DPO(config("odpo"))
    with pytest.raises(DataError, match="no row has one between 0 and 1"):
        odpo.check_rows(ROWS)
    recorded, soft = RecordedRun(make_scores()), [replace(ROWS[0], preference=0.8), *ROWS[1:]]
    odpo.check_rows(soft)
    objective(recorded, config("odpo"), soft).loss(recorded.groups, soft)


@pytest.mark.parametrize("loss", ["cpo", "slic"])
def test_the_nll_of_cpo_and_slic_is_the_mean_over_the_tokens_of_all_chosen_answers(loss):
    seen, labels = make_scores(), [1.0, 0.7, 1.0]
    rows = [replace(row, preference=p) for row, p in zip(ROWS, labels, strict=True)]
    tokens = [
        [-x for x, kept in zip(*row, strict=True) if kept]
        for row in zip(seen["logps"].tolist(), seen["mask"].tolist(), strict=True)
    ]
    chosen, rejected = tokens[:3], tokens[3:]
    assert len({len(one) for one in chosen}) > 1, "else the mean of answers is the mean of tokens"
    nll = sum(p * sum(one) for p, one in zip(labels, chosen, strict=True)) / sum(map(len, chosen))
    nll += sum((1 - p) * sum(one) for p, one in zip(labels, rejected, strict=True)) / sum(map(len, rejected))
    found = [ours(DPO.Config(loss=loss, nll_weight=weight), seen, rows).item() for weight in (0.0, 0.5)]
    assert found[1] - found[0] == pytest.approx(0.5 * nll, rel=1e-5)


def test_aot_compares_sorted_log_ratios_of_policy_and_reference():
    pairs = make_pairs()
    policy = sorted((pairs.chosen.logps - pairs.rejected.logps).tolist())
    reference = sorted((pairs.chosen.reference - pairs.rejected.reference).tolist())
    wanted = [dpo(u - v, 0.1) for u, v in zip(policy, reference, strict=True)]
    assert of("aot", pairs).sum().item() == pytest.approx(sum(wanted))


def test_unpaired_aot_has_the_value_and_the_gradient_of_the_sorted_log_ratios():
    pairs = make_pairs()
    found = [one.logps.clone().requires_grad_() for one in (pairs.chosen, pairs.rejected)]
    inside = [
        Answers(x, y.reference, y.length) for x, y in zip(found, (pairs.chosen, pairs.rejected), strict=True)
    ]
    loss = of("aot_unpaired", Pairs(*inside)).sum()
    plain = [one.logps.clone().requires_grad_() for one in (pairs.chosen, pairs.rejected)]
    a = (plain[0] - pairs.chosen.reference).sort().values
    b = (plain[1] - pairs.rejected.reference).sort().values
    wanted = torch.log1p(torch.exp(-0.1 * (a - b))).sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    wanted.backward()
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_beta_dpo_trusts_a_step_whose_margin_is_above_the_mean():
    pairs = make_pairs()
    shifted = Pairs(pairs.chosen, pairs.rejected, shift=0.5)
    wanted = [dpo(h, 0.1 * (1 + 0.6 * 0.5)) for h in pairs.margin.tolist()]
    assert of("beta_dpo", shifted).tolist() == pytest.approx(wanted, rel=1e-5)


def test_wpo_does_not_learn_through_its_weight():
    pairs = make_pairs(n=1)
    logps = pairs.chosen.logps.clone().requires_grad_()
    of(
        "wpo", Pairs(Answers(logps, pairs.chosen.reference, pairs.chosen.length), pairs.rejected)
    ).sum().backward()
    weight = exp(pairs.chosen.mean.item() + pairs.rejected.mean.item())
    assert logps.grad.item() == pytest.approx(-weight * 0.1 * s(-0.1 * pairs.margin.item()), rel=1e-5)


@pytest.mark.parametrize(("loss", "chosen", "rejected"), [("tdpo1", -1.0, 1.0), ("tdpo2", 0.0, 0.5)])
def test_tdpo_learns_through_the_kl_of_both_answers_or_of_the_rejected_one(loss, chosen, rejected):
    """By the chain rule, in units of the slope of DPO's loss at the same margin and KL."""
    pairs = make_pairs()
    pairs.chosen.kl.requires_grad_()
    pairs.rejected.kl.requires_grad_()
    of(loss, pairs).sum().backward()
    weight = 1.0 if loss == "tdpo1" else 0.5
    slope = (
        0.1 * torch.sigmoid(-0.1 * (pairs.margin - weight * (pairs.rejected.kl - pairs.chosen.kl))).detach()
    )
    torch.testing.assert_close(pairs.chosen.kl.grad, chosen * slope)
    torch.testing.assert_close(pairs.rejected.kl.grad, rejected * slope)


def test_robust_takes_the_expected_share_of_flips_out_again():
    """With a share e of labels flipped, the mean of the robust loss is the loss on clean labels."""
    pairs = make_pairs()
    for share in (0.1, 0.3):
        kept = of("robust", pairs, label_smoothing=share)
        flipped = of("robust", pairs.swapped(), label_smoothing=share)
        torch.testing.assert_close((1 - share) * kept + share * flipped, of("sigmoid", pairs))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in ("robust", "odpo")])
def test_a_soft_label_takes_the_expectation_of_the_loss(loss):
    pairs = make_pairs()
    right, wrong = of(loss, pairs), of(loss, pairs, torch.zeros(N))
    soft = of(loss, pairs, torch.full((N,), 0.7))
    torch.testing.assert_close(soft, 0.7 * right + 0.3 * wrong)
    if loss not in ("aot", "aot_unpaired"):
        torch.testing.assert_close(wrong, of(loss, pairs.swapped()))


@pytest.mark.parametrize("loss", LOSSES)
def test_far_away_every_loss_and_gradient_is_finite(loss):
    far = torch.tensor([-5e3, -1.0, -5e3]).requires_grad_()
    other = torch.tensor([-1.0, -5e3, -5e3])
    length = torch.full((3,), 9)
    kl = torch.tensor([0.0, 5e3, 5e3])
    found = of(loss, Pairs(Answers(far, other, length, kl), Answers(other, far.detach(), length, kl.flip(0))))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(far.grad).all()


def test_every_name_has_a_loss():
    assert set(get_args(Name)) == set(LOSSES)
    assert len(LOSSES) == 32
    assert len({getattr(losses, name) for name in LOSSES}) == 32


PAGES = [
    Path(__file__).parents[3] / "docs" / "methods" / "dpo.md",
    Path(__file__).parents[1] / "README.md",
]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_docstring_of_a_loss_has_its_equation_and_its_source_and_the_pages_have_the_same(loss):
    first = " ".join(getattr(losses, loss).__doc__.partition("\n\n")[0].split())
    source = LOSSES[loss].source
    equation = re.fullmatch(rf"L = (.+), arXiv:{re.escape(source)}\.", first)
    assert equation, f"{first} is not L = ..., arXiv:{source}."
    assert re.search(r"\bh\b|log|s\(", equation[1])
    cell = re.sub(r"\|(\w)\|", r"#\1", equation[1])  # a bar would end it
    number, rest = source[:10], source[10:]
    for page in PAGES:
        row = next(line for line in page.read_text("utf-8").splitlines() if line.startswith(f"| `{loss}` |"))
        assert row.startswith(f"| `{loss}` | {cell} | ")
        assert row.endswith(f"| [{number}](https://arxiv.org/abs/{number}){rest} |")


# --- what a recipe may combine ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_config_written_out_is_the_same_config(loss):
    made = config(loss)
    assert made.beta == BETA.get(loss, 0.1)
    assert DPO.Config(**made.model_dump()) == made


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"loss": "ipo", "margin": 1.0}, "the loss 'ipo' does not read it"),
        ({"nll_weight": 1.0}, "use rpo or cpo or slic or rrhf"),
        ({"loss": "nca_pair", "label_smoothing": 0.1}, "no form for wrong labels"),
        ({"loss": "exo_pair"}, "needs a share of wrong labels above 0"),
    ],
)
def test_a_field_that_the_loss_does_not_read_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        DPO.Config(**fields)


def test_check_tells_a_refused_combination_at_its_place(tmp_path):
    from alignbench.errors import RecipeError
    from alignbench.recipe.load import load

    file = tmp_path / "recipe.yaml"
    file.write_text(
        "model: sandbox\ndata: {train: sandbox}\nbudget: {steps: 1}\n"
        "methods:\n  mine:\n    method: dpo\n    loss: ipo\n    tau: 0.1\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert any(one.line == 8 and "does not read it" in one.what for one in caught.value.problems)


# --- against TRL -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """TRL's own trainer around a two-layer model, whose loss is then asked about given log-probabilities."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    words = {f"w{at}": at for at in range(16)}
    core = Tokenizer(models.WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", unk_token="w1", eos_token="w2")
    shape = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    rows = {"prompt": ["w3 w4"], "chosen": [" w5 w2"], "rejected": [" w6 w2"]}
    args = DPOConfig(
        str(tmp_path_factory.mktemp("trl")),
        report_to="none",
        use_cpu=True,
        bf16=False,
        precompute_ref_log_probs=True,
    )
    return DPOTrainer(
        LlamaForCausalLM(shape), args=args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )


def make_scores(seed: int = 0, *, chosen: int | None = None) -> dict[str, torch.Tensor]:
    """Log-probabilities per token [6, 7] of chosen and rejected, their lengths, and the references' sums.

    `chosen` is the length of every chosen answer, where they are to be equal.
    """
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (6,), generator=draw)
    if chosen is not None:
        lengths[:3] = chosen
    mask = torch.arange(7) < lengths[:, None]
    logps = -torch.rand(6, 7, generator=draw) * 5 * mask
    return {"mask": mask, "logps": logps, "reference": logps.sum(-1) + torch.randn(6, generator=draw)}


class RecordedRun:
    """A run whose scores and references are written down."""

    def __init__(self, seen: dict[str, torch.Tensor]):
        self.groups = {
            name: group_scores(name, seen["mask"][part], logps=seen["logps"][part])
            for name, part in (("chosen", slice(0, 3)), ("rejected", slice(3, 6)))
        }
        self.reference = dict(zip(range(6), seen["reference"].tolist(), strict=True))

    def score(self, groups):
        return self.groups

    def logprobs(self, sequences: list[Sequence]) -> torch.Tensor:
        return torch.tensor([self.reference[one.response[0]] for one in sequences])


ROWS = [
    Pair(
        id=str(n), prompt=(), chosen="", rejected="", prompt_ids=(n,), chosen_ids=(n,), rejected_ids=(n + 3,)
    )
    for n in range(3)
]


def objective(
    recorded: RecordedRun, by: DPO.Config, rows: list[Pair] = ROWS, *, checked: bool = True
) -> Objective:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignbench_dpo.objective.logprobs", lambda run, rows: recorded.logprobs)
        made = Objective(recorded, rows, None, by)
    made.state["checked"] = checked
    return made


def ours(by: DPO.Config, seen: dict[str, torch.Tensor], rows: list[Pair] = ROWS) -> torch.Tensor:
    recorded = RecordedRun(seen)
    made = objective(recorded, by, rows)
    if made.whole_step:
        made.before_step(rows)
    return reduced(made.loss, recorded.groups, rows)[0]


TRLS = {
    **{loss: loss for loss in LOSSES if LOSSES[loss].reference},
    "f_forward_kl": "sigmoid",
    "f_js": "sigmoid",
    "wpo": "sigmoid",
}
for only_ours in (
    *("exponential", "chi_po", "r_dpo", "odpo", "dpop", "rpo", "cal_dpo", "beta_dpo"),
    *("tdpo1", "tdpo2"),
):
    del TRLS[only_ours]


def theirs(trl, seen: dict[str, torch.Tensor]) -> float:
    """The loss of TRL's DPO trainer on given log-probabilities."""
    inputs = {
        "input_ids": torch.full((6, 8), 5),
        "attention_mask": torch.ones(6, 8),
        "completion_mask": torch.cat([torch.zeros(6, 1), seen["mask"]], 1).long(),
        "ref_chosen_logps": seen["reference"][:3],
        "ref_rejected_logps": seen["reference"][3:],
    }
    # Without WPO's alignment of the weights: our weights are the plain probabilities.
    outputs = SimpleNamespace(
        log_probs=seen["logps"],
        log_sum_sq_probs=torch.zeros_like(seen["logps"]),
        entropy=seen["logps"],
        mean_logits=seen["logps"],
        is_top1=seen["mask"],
    )
    return float(trl.compute_loss(lambda **given: outputs, inputs))


@pytest.mark.parametrize("loss", TRLS)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_loss_equals_trls_on_the_same_log_probabilities(trl, loss, beta, monkeypatch):
    smoothing = 0.2 if loss in ("robust", "exo_pair", "aot", "aot_unpaired") else 0.0
    monkeypatch.setattr(trl, "loss_types", [TRLS[loss]])
    monkeypatch.setattr(trl, "loss_weights", [1.0])
    monkeypatch.setattr(trl, "beta", beta)
    monkeypatch.setattr(trl, "label_smoothing", smoothing)
    monkeypatch.setattr(trl, "use_weighting", loss == "wpo")
    monkeypatch.setattr(trl, "precompute_ref_logps", True)
    divergence = {"f_forward_kl": "forward_kl", "f_js": "js_divergence"}.get(loss, "reverse_kl")
    monkeypatch.setattr(trl, "f_divergence_type", divergence)
    for seed in range(5):
        seen = make_scores(seed)
        mine = ours(DPO.Config(loss=loss, beta=beta, label_smoothing=smoothing), seen)
        assert mine.item() == pytest.approx(theirs(trl, seen), rel=2e-6, abs=2e-6)


def test_rpo_equals_trls_sigmoid_and_sft_where_the_chosen_answers_are_equally_long(trl, monkeypatch):
    """Its paper divides by the length of each answer; TRL takes the mean over the tokens of all of them."""
    monkeypatch.setattr(trl, "loss_types", ["sigmoid", "sft"])
    monkeypatch.setattr(trl, "loss_weights", [1.0, 0.5])
    monkeypatch.setattr(trl, "precompute_ref_logps", True)
    config = DPO.Config(loss="rpo", beta=trl.beta, nll_weight=0.5)
    for seed in range(5):
        seen = make_scores(seed, chosen=4)
        assert ours(config, seen).item() == pytest.approx(theirs(trl, seen), rel=2e-6)
    seen = make_scores(0)
    assert ours(config, seen).item() != pytest.approx(theirs(trl, seen), rel=1e-3)


@pytest.mark.parametrize("loss", ["simpo", "alpha_po"])
def test_a_smoothed_margin_is_asked_of_the_other_answer(loss):
    """TRL turns the sign of the whole logit instead, so that its flipped label has the margin on its side."""
    pairs = make_pairs(reference=False)
    wanted = [
        0.8 * formula(loss, w, l, 0, 0, nw, nl, 0, 0) + 0.2 * formula(loss, l, w, 0, 0, nl, nw, 0, 0)
        for w, l, nw, nl in zip(  # noqa: E741
            pairs.chosen.logps.tolist(),
            pairs.rejected.logps.tolist(),
            pairs.chosen.length.tolist(),
            pairs.rejected.length.tolist(),
            strict=True,
        )
    ]
    assert of(loss, pairs, label_smoothing=0.2).tolist() == pytest.approx(wanted, rel=2e-5)


def make_cpo_trainer(loss: str, beta: float, smoothing: float):
    """TRL's CPO trainer as far as its loss reads it."""
    from trl.experimental.cpo import CPOTrainer

    trainer = CPOTrainer.__new__(CPOTrainer)
    vars(trainer).update(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda values: values),
        is_encoder_decoder=False,
        aux_loss_enabled=False,
        pad_token_id=0,
        alpha=0.25 if loss == "alpha_po" else 0.0,
        cpo_alpha=0.5 if LOSSES[loss].token_nll else 0.0,
        beta=beta,
        label_smoothing=smoothing,
        simpo_gamma=1.0,
        loss_type={"cpo": "sigmoid", "slic": "hinge"}.get(loss, "simpo"),
    )
    return trainer


@pytest.mark.parametrize(
    ("loss", "smoothing"), [("simpo", 0.0), ("alpha_po", 0.0), ("cpo", 0.0), ("cpo", 0.2), ("slic", 0.0)]
)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_a_loss_without_a_reference_equals_that_of_trls_cpo_trainer(loss, beta, smoothing):
    """The whole loss of a batch, the NLL of `cpo` and `slic` included, from the logits of a model."""
    trainer = make_cpo_trainer(loss, beta, smoothing)
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        mask = torch.arange(7) < torch.randint(1, 8, (6, 1), generator=draw)
        assert len(set(mask[:3].sum(1).tolist())) > 1
        tokens = torch.randint(0, 11, (6, 7), generator=draw)
        logits = torch.randn(6, 8, 11, generator=draw)
        labels = torch.cat([torch.full((6, 1), -100), tokens.masked_fill(~mask, -100)], 1)
        batch = {
            f"{name}_{column}": values[part]
            for name, part in (("chosen", slice(0, 3)), ("rejected", slice(3, 6)))
            for column, values in (("input_ids", labels), ("attention_mask", labels), ("labels", labels))
        }
        outputs = SimpleNamespace(logits=logits)
        wanted = trainer.get_batch_loss_metrics(lambda *given, outputs=outputs, **more: outputs, batch)[0]
        logps = logits[:, :-1].log_softmax(-1).gather(-1, tokens[..., None])[..., 0] * mask
        fields = {"nll_weight": 0.5} if LOSSES[loss].token_nll else {}
        by = DPO.Config(loss=loss, beta=beta, label_smoothing=smoothing, **fields)
        mine = ours(by, {"mask": mask, "logps": logps, "reference": torch.zeros(6)})
        assert mine.item() == pytest.approx(wanted.item(), rel=2e-6, abs=2e-6)


# --- the step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "beta_dpo"])
def test_a_loss_of_the_whole_step_is_the_same_in_micro_batches(loss):
    recorded = RecordedRun(make_scores())
    made = objective(recorded, config(loss))
    made.before_step(ROWS)
    whole = made.loss(recorded.groups, ROWS)[0]
    parts = []
    for rows in (ROWS[:2], ROWS[2:]):
        part = slice(ROWS.index(rows[0]), ROWS.index(rows[-1]) + 1)
        groups = {
            name: group_scores(name, group.mask[part], logps=group.logps[part])
            for name, group in recorded.groups.items()
        }
        parts.append(made.loss(groups, rows)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("off", [0.0, 0.01])
def test_a_reference_that_is_not_the_start_is_noticed_at_the_first_step(off):
    seen = make_scores()
    seen["reference"] = seen["logps"].sum(-1)
    seen["reference"][:3] += off
    recorded = RecordedRun(seen)
    made = objective(recorded, config("sigmoid"), checked=False)
    if off:
        with pytest.raises(PluginError, match=r"the first loss is 0\.693647, not 0\.693147"):
            made.loss(recorded.groups, ROWS)
    else:
        made.loss(recorded.groups, ROWS)
    assert made.state == {"checked": True}


def test_under_dropout_there_is_nothing_to_check():
    recorded = RecordedRun(make_scores())
    for name, group in recorded.groups.items():
        recorded.groups[name] = group_scores(name, group.mask, logps=group.logps, tolerance=None)
    objective(recorded, config("sigmoid"), checked=False).loss(recorded.groups, ROWS)


def test_the_two_sequences_of_a_pair_share_their_prompt():
    from alignbench_dpo.objective import sequences

    row = Pair(
        id="0", prompt=(), chosen="", rejected="", prompt_ids=(1, 2), chosen_ids=(3,), rejected_ids=(4,)
    )
    given = sequences([row])
    assert given == {"chosen": [Sequence((1, 2), (3,))], "rejected": [Sequence((1, 2), (4,))]}
    assert given["chosen"][0].prompt is given["rejected"][0].prompt, "so that it is computed once"


def test_a_margin_that_equal_policies_could_have_is_a_tie() -> None:
    margin = torch.tensor([2.0, -2.0, 0.0, 4e-7, -4e-7])
    assert ahead(margin, 1e-5).tolist() == [1, 0, 0.5, 0.5, 0.5]
    assert ahead(margin, None).tolist() == [1, 0, 0.5, 1, 0]

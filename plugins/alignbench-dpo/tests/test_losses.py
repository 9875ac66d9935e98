"""The losses of DPO against numbers worked by hand and against TRL's trainer on the same tensors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from alignbench_dpo import DPO, _loss
from alignbench_dpo.losses import pair_loss, unmoved

from alignbench import Pair, PluginError, Sequence
from alignbench.testing.losses import group_scores, reduced

MARGIN = torch.tensor([2.0, 0.0, -1.0])
SURE = torch.ones(3)
LOSSES = ("sigmoid", "ipo", "hinge", "robust")


def of(loss: str, margin=MARGIN, preference=SURE, beta=0.5, label_smoothing=0.0) -> list[float]:
    return pair_loss(margin, preference, loss=loss, beta=beta, label_smoothing=label_smoothing).tolist()


def test_sigmoid_is_the_logistic_loss_of_the_scaled_margin():
    assert of("sigmoid") == pytest.approx(
        [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(0.5))]
    )


def test_ipo_is_the_squared_distance_to_half_over_beta():
    assert of("ipo") == pytest.approx([1.0, 1.0, 4.0])


def test_hinge_is_zero_beyond_a_scaled_margin_of_one():
    assert of("hinge") == pytest.approx([0.0, 1.0, 1.5])


def test_robust_takes_the_expected_share_of_flips_out_again():
    """With a share e of labels flipped, the mean of the robust loss is the loss on clean labels."""
    for share in (0.1, 0.3):
        kept = torch.tensor(of("robust", label_smoothing=share))
        flipped = torch.tensor(of("robust", -MARGIN, label_smoothing=share))
        assert ((1 - share) * kept + share * flipped).tolist() == pytest.approx(of("sigmoid"), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_soft_label_takes_the_expectation_of_the_loss(loss):
    right, wrong = torch.tensor(of(loss)), torch.tensor(of(loss, -MARGIN))
    soft = of(loss, preference=torch.full((3,), 0.7))
    assert soft == pytest.approx((0.7 * right + 0.3 * wrong).tolist(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("preference", [1.0, 0.6])
def test_a_policy_that_has_not_moved_has_a_known_loss(loss, beta, preference):
    losses = of(loss, torch.zeros(3), torch.full((3,), preference), beta, 0.2)
    assert losses == pytest.approx([unmoved(loss, beta)] * 3, rel=1e-6)
    assert unmoved(loss, beta) == pytest.approx(
        {"sigmoid": 0.693147181, "robust": 0.693147181, "hinge": 1, "ipo": 1 / (4 * beta**2)}[loss]
    )


# --- against TRL -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """TRL's own trainer around a two-layer model, whose loss is then asked about given log-probabilities."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class Given(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    words = {f"w{at}": at for at in range(16)}
    core = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", unk_token="w1", eos_token="w2")
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    rows = {"prompt_ids": [[3, 4]], "chosen_ids": [[5, 2]], "rejected_ids": [[6, 2]]}
    args = DPOConfig(
        str(tmp_path_factory.mktemp("trl")),
        report_to="none",
        use_cpu=True,
        bf16=False,
        precompute_ref_log_probs=True,
    )
    return Given(
        LlamaForCausalLM(config), args=args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )


def make_scores(seed: int = 0) -> dict[str, torch.Tensor]:
    """Log-probabilities per token [3, 7] of chosen and rejected, their lengths, and the references' sums."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (6,), generator=draw)
    mask = torch.arange(7) < lengths[:, None]
    logps = -torch.rand(6, 7, generator=draw) * 5 * mask
    return {"mask": mask, "logps": logps, "reference": logps.sum(-1) + torch.randn(6, generator=draw)}


def ours(config, seen: dict[str, torch.Tensor]) -> torch.Tensor:
    groups = {}
    for name, part in (("chosen", slice(0, 3)), ("rejected", slice(3, 6))):
        groups[name] = group_scores(name, seen["mask"][part], logps=seen["logps"][part])
    rows = [Pair(id=str(n), prompt=(), chosen=f"c{n}", rejected=f"r{n}", prompt_ids=(n,)) for n in range(3)]
    references = iter([seen["reference"][:3], seen["reference"][3:]])
    return reduced(_loss(config, lambda sequences: next(references), {"checked": True}), groups, rows)[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_loss_equals_trls_on_the_same_log_probabilities(trl, loss, beta):
    for seed in range(5):
        seen = make_scores(seed)
        smoothing = 0.2 if loss == "robust" else 0.0
        trl.loss_types, trl.loss_weights, trl.beta, trl.label_smoothing = [loss], [1.0], beta, smoothing
        trl.precompute_ref_logps = True
        inputs = {
            "input_ids": torch.full((6, 8), 5),
            "attention_mask": torch.ones(6, 8),
            "completion_mask": torch.cat([torch.zeros(6, 1), seen["mask"]], 1).long(),
            "ref_chosen_logps": seen["reference"][:3],
            "ref_rejected_logps": seen["reference"][3:],
        }
        fields = {"entropy": seen["logps"], "mean_logits": seen["logps"], "is_top1": seen["mask"]}
        said = SimpleNamespace(log_probs=seen["logps"], **fields)
        theirs = trl._compute_loss(lambda **given: said, inputs, False)  # noqa: B023
        mine = ours(DPO.Config(loss=loss, beta=beta, label_smoothing=smoothing), seen)
        assert mine.item() == pytest.approx(float(theirs), rel=1e-6, abs=1e-6)


# --- the check at the first step -------------------------------------------------------------------------


def test_a_reference_that_is_not_the_start_is_noticed_at_the_first_step():
    seen = make_scores()
    group = group_scores("chosen", seen["mask"][:3], logps=seen["logps"][:3])
    rows = [Pair(id="0", prompt=(), chosen="", rejected="")] * 3
    for stale, off in ((False, 0.0), (True, 0.01)):
        shifts = iter([off, 0.0])
        state = {"checked": False}
        loss = _loss(DPO.Config(), lambda _, shifts=shifts: group.sums() + next(shifts), state)
        if stale:
            with pytest.raises(PluginError, match=r"the first loss is 0\.693647, not 0\.693147"):
                loss({"chosen": group, "rejected": group}, rows)
        else:
            loss({"chosen": group, "rejected": group}, rows)
        assert state == {"checked": True}


def test_under_dropout_there_is_nothing_to_check():
    group = group_scores("chosen", torch.ones(1, 2, dtype=bool), logps=torch.zeros(1, 2), tolerance=None)
    shifts = iter([5.0, 0.0])
    loss = _loss(DPO.Config(), lambda _: torch.zeros(1) + next(shifts), {"checked": False})
    loss({"chosen": group, "rejected": group}, [Pair(id="0", prompt=(), chosen="", rejected="")])


def test_the_two_sequences_of_a_pair_share_their_prompt():
    from alignbench_dpo import _sequences

    row = Pair(
        id="0", prompt=(), chosen="", rejected="", prompt_ids=(1, 2), chosen_ids=(3,), rejected_ids=(4,)
    )
    given = _sequences([row])
    assert given == {"chosen": [Sequence((1, 2), (3,))], "rejected": [Sequence((1, 2), (4,))]}
    assert given["chosen"][0].prompt is given["rejected"][0].prompt, "so that it is computed once"

"""The arithmetic of merging against numbers worked by hand, plain loops, peft, and singular values."""

from __future__ import annotations

import pytest
import torch
from alignbench_merge.merging import add, least_kept, nearest, ties
from torch import Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_task_arithmetic_adds_the_changes_by_their_weights():
    changes = torch.tensor([[[1.0, -2.0], [0.0, 4.0]], [[3.0, 1.0], [-1.0, 0.5]]])
    assert add(changes, [0.5, -1.0]).tolist() == [[-2.5, -2.0], [1.0, 1.5]]


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree():
    """The third value: 5 and 2 against -4; the fourth: -3 outweighs 2; the fifth was trimmed everywhere."""
    changes = torch.tensor(
        [[4.0, -1.0, 5.0, 2.0, 0.5], [6.0, -3.0, 2.0, -3.0, -0.5], [0.5, 8.0, -4.0, 0.0, 0.5]]
    )
    merged = ties(changes, [1 / 3] * 3, [1.0, 2.0, 1.0])
    assert merged.tolist() == pytest.approx([5.0, 8.0, 3.5, -3.0, 0.0])


def test_in_a_weighted_mean_a_label_counts_by_its_weight_in_the_sign_and_in_the_mean():
    changes = torch.tensor([[1.0, 3.0], [2.0, -2.0]])
    assert ties(changes, [1.0, 3.0], [0.0, 0.0]).tolist() == pytest.approx([(1 + 3 * 2) / 4, -2.0])


def test_values_that_cancel_exactly_are_nothing():
    assert ties(torch.tensor([[1.0], [-1.0]]), [0.5, 0.5], [0.0, 0.0]).tolist() == [0.0]


@pytest.mark.parametrize("density", [0.1, 0.37, 0.999])
def test_ties_equals_that_of_peft(density: float):
    from peft.utils.merge_utils import ties as theirs

    changes = drawn(3, 20, 31)
    cuts = [least_kept(lambda one=one: [one], density) for one in changes]
    expected = theirs(list(changes), torch.ones(3), density)
    assert torch.allclose(ties(changes, [1 / 3] * 3, cuts), expected, atol=1e-6)


@pytest.mark.parametrize("density", [1e-9, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4])
def test_what_is_kept_is_the_largest_of_all_layers_together(density: float, scale: float):
    layers = [scale * drawn(2, 7, 5), scale * 30 * drawn(1, 4, 4, seed=1), torch.zeros(1, 2, 3)]
    values = torch.cat([layer.flatten() for layer in layers]).abs().sort(descending=True).values
    kept = max(1, int(density * len(values)))
    assert least_kept(lambda: layers, density) == values[kept - 1].item()


def test_of_equal_values_all_are_kept():
    assert least_kept(lambda: [torch.tensor([2.0, -2.0, 2.0, 1.0])], 0.5) == 2.0


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (8, 8), (3, 5, 12)])
def test_the_nearest_of_a_rank_loses_the_smallest_singular_values_and_no_more(shape: tuple[int, ...]):
    whole = drawn(*shape)
    up, down = nearest(whole, 4)
    assert (up.shape, down.shape) == ((*shape[:-1], 4), (*shape[:-2], 4, shape[-1]))
    lost = (whole - up @ down).square().sum((-2, -1))
    expected = torch.linalg.svdvals(whole.double())[..., 4:].square().sum(-1)
    assert torch.allclose(lost, expected, atol=1e-9)
    assert torch.allclose(
        down @ down.mT, torch.eye(4, dtype=torch.float64).expand(*shape[:-2], 4, 4), atol=1e-9
    )


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_weights_of_that_rank_are_kept_exactly(shape: tuple[int, int]):
    whole = drawn(shape[0], 3) @ drawn(3, shape[1], seed=1)
    for rank in (3, 5):
        up, down = nearest(whole, rank)
        assert torch.allclose((up @ down).float(), whole, atol=1e-5)


def test_a_rank_above_the_layers_width_is_filled_with_zeros():
    whole = drawn(3, 9)
    up, down = nearest(whole, 5)
    assert (up.shape, down.shape) == ((3, 5), (5, 9))
    assert torch.allclose((up @ down).float(), whole, atol=1e-6)
    assert not up[:, 3:].any()


def test_where_there_is_no_change_a_training_can_go_on():
    up, down = nearest(torch.zeros(6, 9), 4)
    assert not up.any()
    assert torch.allclose(down @ down.mT, torch.eye(4, dtype=torch.float64))

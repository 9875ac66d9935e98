"""FLOPs and positions against torch's own counter, on the sandbox and on other architectures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from alignbench.api.config import Sampling
from alignbench.api.method import ScoringGroup
from alignbench.models import Base, DecodingBase, Query, counting, load_base
from alignbench.models.forward import groups, varlen
from alignbench.models.forward.groups import Group, lay_out, read, response_states, score
from alignbench.models.meter import Meter, Tally, Work, doing, metered
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

from .conftest import build_gpt2, build_model

FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten.addmm_: lambda _, a, b, *__, **___: 2 * a[0] * a[1] * b[1],
}
"""What torch does not count by itself: the kernel of a search on a CPU, and a product added in place."""

CLOSE = 0.02
"""How far the counts may be apart; they are equal but for what is neither linear nor attention."""


@pytest.fixture(scope="module", params=["sandbox", "llama with shared keys", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "sandbox":
        return load_base(schema.Model(id="sandbox"))
    if request.param == "gpt2":
        return load_base(schema.Model(id=str(build_gpt2(folder)), quantization="none"))
    made = build_model(folder, num_key_value_heads=2)
    return load_base(schema.Model(id=str(made)))


def sequences(count: int) -> list[Sequence]:
    """Sequences of unequal length with a prompt each."""
    draw = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=draw))
        return tuple(torch.randint(5, 60, (length,), generator=draw).tolist())

    return [Sequence(ids(10, 30), ids(3, 15)) for _ in range(count)]


class _Untracked(nullcontext):
    """Stands in for torch's record of modules, which refuses a module called inside of an autograd function."""

    parents = frozenset({"Global"})


def counted(compute: Callable[[], object]) -> tuple[Work, int]:
    """Return what our meter and what torch's counter make of the same computation."""
    tally = Tally()
    # Attention as plain products: torch does not count the fused kernels of a CPU.
    theirs = FlopCounterMode(display=False, custom_mapping=FUSED)
    theirs.mod_tracker = _Untracked()  # pyright: ignore[reportAttributeAccessIssue]
    with metered(tally), sdpa_kernel(SDPBackend.MATH), theirs:
        compute()
    return tally.work, theirs.get_total_flops()


def test_a_forward_has_the_flops_that_torch_counts(base: Base):
    policy = base.add_adapter("policy", seed=0)
    items = sequences(8)
    ours, theirs = counted(lambda: score(policy, {"all": ScoringGroup(items)}))
    assert ours.flops == pytest.approx(theirs, rel=CLOSE)
    assert ours.positions == sum(len(one) - 1 for one in items)
    assert ours.trained == 0


def test_blocks_of_similar_length_change_neither_states_nor_positions(base: Base, monkeypatch):
    """In one row, padded and one by one; a prompt that sequences of several blocks share is counted once."""
    shared = (7, 8, 9, 10)
    items = [*sequences(40), *(Sequence(shared, tuple(range(5, 5 + count))) for count in (2, 25, 50))]
    layout = lay_out({"": Group(items)}, base.device)
    assert len(layout.varlen.blocks) > 2
    with torch.no_grad(), base.using(base.policy()), base.arithmetic():
        alone = varlen._alone(base.model, layout.ids, layout.varlen)
        with metered(Tally()) as tally:
            padded = varlen._padded(base.model, layout.ids, layout.varlen)
        assert tally.work.positions == len(layout.ids)
        torch.testing.assert_close(padded, alone, atol=1e-3, rtol=1e-3)
        several = response_states(base, layout)
        monkeypatch.setattr(groups, "MOST_BLOCKS", 1)
        whole = lay_out({"": Group(items)}, base.device)
        assert len(whole.varlen.blocks) == 1
        torch.testing.assert_close(several, response_states(base, whole), atol=1e-3, rtol=1e-3)


def test_a_backward_pass_has_the_flops_that_torch_counts(base: Base):
    """Through the frozen layers to the adapters, and nothing below the first of them."""
    policy = base.add_adapter("policy", seed=0)
    items = sequences(8)

    def step() -> None:
        read(policy, {"all": Group(items)}, None)["all"].logps.sum().backward()

    for _ in range(2):  # the first call of a kind is counted layer by layer, the others by what it found
        ours, theirs = counted(step)
        assert ours.flops == pytest.approx(theirs, rel=CLOSE)
    assert ours.trained == sum(len(one) - 1 for one in items)
    assert ours.positions == 0


def test_a_comparison_of_distributions_has_the_flops_that_torch_counts(base: Base):
    """The other policy's forward, the head on both, and two passes back through it."""
    policy = base.add_adapter("policy", seed=0)
    items = sequences(8)

    def step() -> None:
        scores = read(policy, {"all": Group(items, kl_from=base.policy())}, None)["all"]
        (scores.logps.sum() + scores.kl.sum()).backward()

    for _ in range(2):
        ours, theirs = counted(step)
        assert ours.flops == pytest.approx(theirs, rel=CLOSE)
    assert ours.trained == ours.positions == sum(len(one) - 1 for one in items)


def test_answers_have_the_flops_that_torch_counts(base: Base):
    prompts = [
        Prompt(id=str(place), prompt=(), prompt_ids=one.prompt) for place, one in enumerate(sequences(6))
    ]
    found = []
    ours, theirs = counted(lambda: found.extend(base.policy().answer(prompts, Sampling(max_new_tokens=6), 0)))
    assert ours.flops == pytest.approx(theirs, rel=CLOSE)
    assert ours.positions == sum(answer.tokens for answer in found)


def test_a_search_has_the_flops_that_torch_counts():
    base = load_base(schema.Model(id="sandbox"))
    decoding = DecodingBase(base.policy())
    tree = decoding.new_tree(tuple(range(5, 45)))
    path = tuple(range(5, 50))
    asked = [Query((*path, 7, 8)), Query((*path, 9)), Query((*path, 9, 10, 11))]
    ours, theirs = counted(lambda: decoding.ask([(tree, asked)]))
    assert ours.flops == pytest.approx(theirs, rel=CLOSE)
    assert ours.positions >= tree.tokens


def test_recomputed_activations_are_not_counted():
    base = load_base(schema.Model(id="sandbox"))
    policy = base.add_adapter("policy", seed=0)
    items = sequences(4)

    def step() -> None:
        with base.using(policy):
            layout = lay_out({"all": Group(items)}, base.device)
            response_states(base, layout).sum().backward()

    base.recomputes = True  # the last layer is then the whole one
    plain = counted(step)[0]
    base.checkpointing(True)
    base.model.train()
    assert counted(step)[0] == plain


def test_what_is_tried_out_is_nobodys(tmp_path: Path):
    tally = Tally()
    with metered(tally):
        load_base(schema.Model(id=str(build_model(tmp_path))))
    assert tally.work == Work()


def test_a_network_is_counted_once_however_often_it_is_asked_for(base: Base):
    counting.count(base.model)
    ids = torch.arange(5, 15)[None]
    ours, _ = counted(lambda: base.hidden(ids))
    assert (ours.forwards, ours.positions) == (1, 10)


def test_a_forward_that_fails_counts_nothing(base: Base):
    def fails() -> None:
        with pytest.raises((IndexError, RuntimeError)):
            base.hidden(torch.tensor([[10**6]]))

    assert counted(fails)[0] == Work()
    ours, _ = counted(lambda: base.hidden(torch.arange(5, 15)[None]))
    assert ours.positions == 10


def test_only_the_innermost_meter_is_charged_and_a_judge_keeps_what_it_generates():
    class Kinds(Meter):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def begin(self, kind: str) -> None:
            self.seen.append(kind)

    outer, inner = Kinds(), Kinds()
    with metered(outer), doing("train"), metered(inner), doing("judge"):
        pass
    assert (outer.seen, inner.seen) == (["train"], ["judge"])

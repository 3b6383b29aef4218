from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mac_counts import macs_of
from understudy.early_exit.exit_sequence import ExitSequence, SequenceSize, SequenceSpec
from understudy.errors import ModelError
from understudy.nn.stage import Stage

WIDTHS = (6, 3, 10, 5)
CLASSES = 7


def made(
    widths: Sequence[int] = WIDTHS,
    *,
    seed: int = 0,
    trained: bool = True,
    dim: int = 16,
    layers: int = 2,
    heads: int = 4,
) -> ExitSequence:
    """A sequence whose exits have random weights, as if it were trained."""
    torch.manual_seed(seed)
    size = SequenceSize(layers, dim, heads)
    sequence = ExitSequence(widths, classes=CLASSES, size=size)
    if trained:
        for exit in sequence.exits:
            nn.init.normal_(exit.get_parameter("weight"))
    return sequence.eval()


def inputs(
    samples: int = 4, widths: Sequence[int] = WIDTHS, seed: int = 1
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pooled = [3 * torch.randn(samples, width, generator=generator) for width in widths]
    return pooled, torch.randn(samples, CLASSES, generator=generator)


def one_by_one(
    sequence: ExitSequence,
    pooled: Sequence[Tensor],
    saver_logits: Tensor,
    rows: Sequence[Tensor] | None = None,
) -> Tensor:
    """Logits (N, T - 1, C) of the rows, token by token; `rows[i]` are kept after token i."""
    keep = torch.arange(len(saver_logits))
    cache, found = sequence.empty_cache(len(keep), pooled[0]), []
    for number, feature in enumerate(pooled):
        out, cache = sequence.token(number, feature[keep], cache)
        if number:
            found.append(sequence.exit(number, out, saver_logits[keep]))
        if rows is not None:
            cache, keep = cache.index_select(0, rows[number]), keep[rows[number]]
            found = [logits[rows[number]] for logits in found]
    return torch.stack(found, 1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_shapes() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    assert sequence(pooled, saver_logits).shape == (4, 3, CLASSES)
    cache = sequence.empty_cache(4, pooled[0])
    assert cache.shape == (4, 0, 2, 2, 16)
    out, cache = sequence.token(0, pooled[0], cache)
    assert (out.shape, cache.shape) == ((4, 16), (4, 1, 2, 2, 16))
    out, cache = sequence.token(1, pooled[1], cache)
    assert cache.shape == (4, 2, 2, 2, 16)
    assert sequence.exit(1, out, saver_logits).shape == (4, CLASSES)


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    layers=st.integers(0, 3),
    heads=st.sampled_from([1, 2, 8]),
    samples=st.integers(0, 4),
)
def test_tokens_one_by_one_are_the_whole_sequence(
    widths: Sequence[int], layers: int, heads: int, samples: int
) -> None:
    sequence = made(widths, layers=layers, heads=heads)
    pooled, saver_logits = inputs(samples, widths)
    with torch.no_grad():
        close(one_by_one(sequence, pooled, saver_logits), sequence(pooled, saver_logits))


def test_rows_may_be_dropped_between_tokens() -> None:
    sequence = made()
    pooled, saver_logits = inputs(samples=6)
    rows = [torch.tensor(kept) for kept in ([0, 1, 3, 5], [3, 0, 2], [0, 2], [1])]
    left = torch.arange(6)
    for kept in rows:
        left = left[kept]
    assert left.tolist() == [3]
    found = one_by_one(sequence, pooled, saver_logits, rows)
    close(found, sequence(pooled, saver_logits)[left])


def test_a_later_token_never_changes_an_earlier_exit() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    before = sequence(pooled, saver_logits)
    for changed in range(len(WIDTHS)):
        other = [x * -2 + 1 if i == changed else x for i, x in enumerate(pooled)]
        after = sequence(other, saver_logits)
        first = max(changed - 1, 0)
        assert torch.equal(after[:, :first], before[:, :first])
        for exit in range(first, len(WIDTHS) - 1):
            assert not torch.allclose(after[:, exit], before[:, exit])


def test_gradients_go_back_in_the_sequence_alone() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    pooled = [x.requires_grad_() for x in pooled]
    sequence(pooled, saver_logits)[:, 1].sum().backward()
    assert [bool(x.grad is not None and x.grad.any()) for x in pooled] == [True, True, True, False]


def test_at_first_every_exit_answers_like_the_saver() -> None:
    sequence = made(trained=False)
    pooled, saver_logits = inputs()
    found = sequence(pooled, saver_logits)
    assert torch.equal(found, saver_logits[:, None].expand_as(found))


def test_training_departs_from_the_saver() -> None:
    sequence = made(trained=False).train()
    pooled, saver_logits = inputs(samples=16)
    labels = torch.arange(16) % CLASSES
    optimiser = torch.optim.Adam(sequence.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        logits = sequence(pooled, saver_logits)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(3))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_saver_is_added() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    apart = sequence(pooled, torch.zeros_like(saver_logits)) + saver_logits[:, None]
    close(sequence(pooled, saver_logits), apart)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_block_has_no_feed_forward_part(layers: int) -> None:
    found = [block.feed_forward is not None for block in made(layers=layers).blocks]
    assert found == [True] * (layers - 1) + [False]


def test_parameters() -> None:
    tokens = sum(2 * width + (width + 1) * 16 for width in WIDTHS)
    attention = 2 * 16 + 4 * 17 * 16
    feed_forward = 2 * 16 + 17 * 64 + 65 * 16
    exits = 3 * 16 * CLASSES
    found = sum(p.numel() for p in made().parameters())
    assert found == tokens + 2 * attention + feed_forward + exits


def test_initial_values_are_the_callers() -> None:
    first, same, other = (made(trained=False, seed=seed) for seed in (0, 0, 1))
    pairs = [
        (torch.equal(a, b), torch.equal(a, c))
        for (name, a), b, c in zip(
            first.named_parameters(), same.parameters(), other.parameters(), strict=True
        )
        if "tokenisers" in name and name.endswith("1.weight")
    ]
    assert pairs == [(True, False)] * len(WIDTHS)


def test_round_trip_through_json() -> None:
    sequence = made(layers=3, heads=8)
    again = SequenceSpec.from_dict(json.loads(json.dumps(sequence.spec.to_dict()))).build()
    assert again.spec == sequence.spec
    again.load_state_dict(sequence.state_dict())
    pooled, saver_logits = inputs()
    assert torch.equal(again.eval()(pooled, saver_logits), sequence(pooled, saver_logits))


def test_damaged_descriptions() -> None:
    with pytest.raises(ModelError, match=r"a sequence has the field 'classes' at \$"):
        SequenceSpec.from_dict({"widths": [1, 2]})
    with pytest.raises(ModelError, match="heads divide dim"):
        SequenceSpec.from_dict({**made().spec.to_dict(), "heads": 5}).build()


def test_sizes_are_checked() -> None:
    with pytest.raises(ModelError, match="found 8 heads and dim 20: take dim 24, or other heads"):
        SequenceSize(dim=20)
    for text in ("2", "x512", "2x", "-1x8", "two x 8", "2x512x8x1"):
        with pytest.raises(ModelError, match="reads LAYERSxDIM"):
            SequenceSize.parse(text)
    with pytest.raises(ModelError, match=r"at least two, found \[6\]: tap the network"):
        ExitSequence([6], classes=2)
    for wrong in ({"dim": 0}, {"layers": -1}, {"heads": 0}):
        with pytest.raises(ModelError, match="has 0 layers or more"):
            SequenceSize(**wrong)
    for widths, classes in ((WIDTHS, 0), ([6, 0], 2)):
        with pytest.raises(ModelError, match="sizes are at least 1"):
            ExitSequence(widths, classes=classes)


def test_order_is_checked() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    cache = sequence.empty_cache(4, pooled[0])
    with pytest.raises(ModelError, match="found token 1 after 0 others"):
        sequence.token(1, pooled[1], cache)
    with pytest.raises(ModelError, match="tokens 0 to 3 come in order, found token 4"):
        sequence.token(4, pooled[1], torch.zeros(4, 4, 2, 2, 16))
    for number in (0, 4):
        with pytest.raises(ModelError, match=f"exits go from 1 to 3, found {number}"):
            sequence.exit(number, torch.zeros(4, 16), saver_logits)
    with pytest.raises(ModelError, match="takes 4 pooled features, the saver's first, found 3"):
        sequence(pooled[1:], saver_logits)


def test_precision() -> None:
    sequence = made()
    pooled, saver_logits = inputs()
    half = [x.half() for x in pooled]
    assert sequence(half, saver_logits).dtype == torch.float32
    assert one_by_one(sequence, half, saver_logits).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sequence(pooled, saver_logits)
        torch.testing.assert_close(
            one_by_one(sequence, pooled, saver_logits), mixed, rtol=0.1, atol=0.2
        )
    torch.testing.assert_close(mixed, sequence(pooled, saver_logits), rtol=0.1, atol=0.3)


class Token(nn.Module):
    """One token and its exit, as a model."""

    def __init__(self, sequence: ExitSequence, number: int) -> None:
        super().__init__()
        self.sequence, self.number = sequence, number

    def forward(self, pooled: Tensor) -> Tensor:
        cache = pooled.new_zeros(len(pooled), self.number, 2, 2, 16)
        out, _ = self.sequence.token(self.number, pooled, cache)
        return self.sequence.exit(self.number, out, pooled.new_zeros(len(pooled), CLASSES))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_macs_are_counted_completely(number: int) -> None:
    width, dim = WIDTHS[number], 16
    found = macs_of(Stage(Token(made(), number)), torch.zeros(width))
    attention = 4 * dim**2 + 2 * dim * (number + 1)
    assert found.total == width * dim + 2 * attention + 8 * dim**2 + dim * CLASSES
    assert found.uncounted == ()


class Whole(nn.Module):
    """All exits, as a model."""

    def __init__(self, sequence: ExitSequence) -> None:
        super().__init__()
        self.sequence = sequence

    def forward(self, row: Tensor) -> Tensor:
        pooled = row.split(WIDTHS, 1)
        return self.sequence(pooled, row.new_zeros(len(row), CLASSES))[:, -1]


def test_macs_of_the_whole_sequence_are_counted_completely() -> None:
    found = macs_of(Stage(Whole(made())), torch.zeros(sum(WIDTHS)))
    tokens, dim = len(WIDTHS), 16
    attention = 4 * tokens * dim**2 + 2 * dim * tokens**2
    layers = 2 * attention + tokens * 8 * dim**2
    assert found.total == sum(WIDTHS) * dim + layers + (tokens - 1) * dim * CLASSES
    assert found.uncounted == ()

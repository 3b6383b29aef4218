"""The Exit Sequence Network: exits that attend to earlier features and refine a saver's logits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.json_codec import Stored


@dataclass(frozen=True)
class SequenceSize:
    """The size of an Exit Sequence Network; the paper's is 2 layers of 512.

    Attributes:
        layers: transformer blocks, of which the last has no feed-forward part; 0 for tokens that
            do not attend to each other.
        dim: the width of a token, a multiple of `heads`.
        heads: of the attention.

    Raises:
        ModelError: a size below 1 (`layers`: below 0), or heads that do not divide `dim`.
    """

    layers: int = 2
    dim: int = 128
    heads: int = 8

    def __post_init__(self) -> None:
        if self.layers < 0 or min(self.dim, self.heads) < 1:
            raise ModelError(
                "an Exit Sequence Network has 0 layers or more, and at least 1 head and width, "
                f"found {self.layers} layers, {self.heads} heads and the width {self.dim}"
            )
        if self.dim % self.heads:
            raise ModelError(
                f"heads divide dim, found {self.heads} heads and dim {self.dim}: take dim "
                f"{-(-self.dim // self.heads) * self.heads}, or other heads"
            )

    @staticmethod
    def parse(text: str) -> SequenceSize:
        """The size that ``LAYERSxDIM`` names, with 8 heads, or ``LAYERSxDIMxHEADS``.

        >>> SequenceSize.parse("2x512"), SequenceSize.parse("1x12x4")
        (SequenceSize(layers=2, dim=512, heads=8), SequenceSize(layers=1, dim=12, heads=4))

        Raises:
            ModelError: another form, or no size.
        """
        found = re.fullmatch(r"\d{1,3}x\d{1,6}(x\d{1,6})?", text.strip())
        if found is None:
            raise ModelError(
                "the size of an Exit Sequence Network reads LAYERSxDIM or LAYERSxDIMxHEADS, found "
                f"{text[:80]!r}: write 2x512 for two layers of width 512"
            )
        return SequenceSize(*map(int, text.split("x")))


SEQUENCE = SequenceSize()


@dataclass(frozen=True)
class SequenceSpec(Stored, what="a sequence", error=ModelError, remedy="train the exits again"):
    """The architecture of an Exit Sequence Network: the arguments of `ExitSequence`."""

    widths: tuple[int, ...]
    classes: int
    dim: int
    layers: int
    heads: int

    def build(self) -> ExitSequence:
        """A sequence of this architecture, with new weights.

        Raises:
            ModelError: as `ExitSequence`.
        """
        size = SequenceSize(self.layers, self.dim, self.heads)
        return ExitSequence(self.widths, classes=self.classes, size=size)


class ExitSequence(nn.Module):
    """TinySaver's Exit Sequence Network (Wang et al., ECCV 2024, arXiv 2403.17726).

    Token 0 is computed from the saver's last feature, token i from the feature at tap i, each by
    global average, LayerNorm, a linear layer and ReLU. A token attends to itself and to those
    before it. Exit i adds a linear function of token i to the saver's logits. That function is zero
    at first, so that an untrained sequence returns the saver's logits.

    Tokens are processed one by one (`token`), against cached keys and values of those before them,
    or all at once (`forward`), with the same result. Initial weights are drawn from PyTorch's
    global generator.

    Args:
        widths: of the saver's last feature and of the feature at every tap, pooled.
        classes: the number of logits.
        size: layers, width and heads.

    >>> sequence = ExitSequence([8, 16, 32], classes=3, size=SequenceSize(dim=16, heads=4))
    >>> pooled = [torch.randn(2, width) for width in (8, 16, 32)]
    >>> saver_logits = torch.randn(2, 3)
    >>> sequence(pooled, saver_logits).shape
    torch.Size([2, 2, 3])
    >>> cache = sequence.empty_cache(2, pooled[0])
    >>> out, cache = sequence.token(0, pooled[0], cache)
    >>> out, cache = sequence.token(1, pooled[1], cache)
    >>> torch.equal(sequence.exit(1, out, saver_logits), saver_logits)
    True

    Raises:
        ModelError: fewer than two widths, a width below 1, no classes.
    """

    def __init__(
        self, widths: Sequence[int], *, classes: int, size: SequenceSize = SEQUENCE
    ) -> None:
        _check_widths(widths, classes)
        super().__init__()
        self.widths = tuple(widths)
        self.classes = classes
        self.layers, self.dim, self.heads = layers, dim, heads = size.layers, size.dim, size.heads
        self.tokenisers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.ReLU()) for width in widths
        )
        self.blocks = nn.ModuleList(
            _Block(dim, heads, feeds_forward=number < layers - 1) for number in range(layers)
        )
        self.exits = nn.ModuleList(nn.Linear(dim, classes, bias=False) for _ in self.widths[1:])
        for exit in self.exits.parameters():
            nn.init.zeros_(exit)

    def token(self, number: int, pooled: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Run one more token through all blocks: its output (N, dim), and the longer cache.

        Rows may be dropped between tokens: `cache.index_select(0, rows)`.

        Args:
            number: of the token; tokens come in order, from 0.
            pooled: (N, widths[number]), any floating dtype.
            cache: (N, number, layers, 2, dim): keys and values of the tokens before.

        Raises:
            ModelError: no such token, or a cache of another number of tokens.
        """
        if not 0 <= number < len(self.widths) or cache.shape[1] != number:
            raise ModelError(
                f"tokens 0 to {len(self.widths) - 1} come in order, found token {number} after "
                f"{cache.shape[1]} others: give every token before it first"
            )
        out, cache = self._attend(self.tokenise(number, pooled).unsqueeze(1), cache)
        return out.squeeze(1), cache

    def tokenise(self, number: int, pooled: Tensor) -> Tensor:
        """A token (N, dim) of a pooled feature (N, widths[number]), before all blocks."""
        token: Tensor = self.tokenisers[number](pooled.to(self._dtype))
        return token

    def empty_cache(self, rows: int, like: Tensor) -> Tensor:
        """The cache before the first token, (rows, 0, layers, 2, dim), on the device of `like`."""
        return like.new_empty((rows, 0, self.layers, 2, self.dim), dtype=self._dtype)

    def exit(self, number: int, out: Tensor, saver_logits: Tensor) -> Tensor:
        """The logits (N, C) of an exit, numbered from 1.

        Raises:
            ModelError: no such exit.
        """
        if not 1 <= number < len(self.widths):
            raise ModelError(f"exits go from 1 to {len(self.exits)}, found {number}")
        refinement: Tensor = self.exits[number - 1](out)
        return refinement + saver_logits

    def forward(self, pooled: Sequence[Tensor], saver_logits: Tensor) -> Tensor:
        """The logits of all exits at once, (N, taps, C).

        Args:
            pooled: the saver's feature and that of every tap, each (N, width).
            saver_logits: (N, C).

        Raises:
            ModelError: another number of features.
        """
        if len(pooled) != len(self.widths):
            raise ModelError(
                f"the sequence takes {len(self.widths)} pooled features, the saver's first, found "
                f"{len(pooled)}: give one per tap"
            )
        tokens = torch.stack([self.tokenise(i, feature) for i, feature in enumerate(pooled)], 1)
        out, _ = self._attend(tokens, self.empty_cache(len(tokens), tokens))
        exits = range(1, len(self.widths))
        return torch.stack([self.exit(i, out[:, i], saver_logits) for i in exits], 1)

    @property
    def spec(self) -> SequenceSpec:
        """The architecture, without weights."""
        return SequenceSpec(self.widths, self.classes, self.dim, self.layers, self.heads)

    def _attend(self, tokens: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens (N, S, dim) after all blocks, and the cache with theirs appended."""
        if not self.layers:  # the cache has no content, and still says how many tokens there are
            rows, count = len(tokens), cache.shape[1] + tokens.shape[1]
            return tokens, cache.new_empty((rows, count, 0, 2, self.dim))
        seen = []
        for block, past in zip(self.blocks, cache.unbind(2), strict=True):
            tokens, keys_values = block(tokens, past)
            seen.append(keys_values)
        return tokens, torch.stack(seen, 2)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class _Block(nn.Module):
    """A pre-norm transformer block: causal attention, and feed-forward except in the last block."""

    def __init__(self, dim: int, heads: int, *, feeds_forward: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.project = nn.Linear(dim, dim)
        self.feed_forward = (
            nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
            )
            if feeds_forward
            else None
        )

    def forward(self, tokens: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, S, dim), keys and values (N, t + S, 2, dim); S is 1, or t is 0."""
        normed = self.norm(tokens)
        rows, count, dim = tokens.shape
        seen = torch.cat([past, self.key_value(normed).view(rows, count, 2, dim)], 1)
        keys, values = seen.unbind(2)
        mixed = F.scaled_dot_product_attention(
            self._by_head(self.query(normed)),
            self._by_head(keys),
            self._by_head(values),
            is_causal=tokens.shape[1] > 1,
        )
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        if self.feed_forward is not None:
            tokens = tokens + self.feed_forward(tokens)
        return tokens, seen

    def _by_head(self, rows: Tensor) -> Tensor:
        """(N, T, dim) -> (N, heads, T, dim / heads)."""
        samples, count, dim = rows.shape
        return rows.reshape(samples, count, self.heads, dim // self.heads).transpose(1, 2)


def _check_widths(widths: Sequence[int], classes: int) -> None:
    if len(widths) < 2:
        raise ModelError(
            "a sequence has the saver's width and one per tap, at least two, found "
            f"{list(widths)}: tap the network somewhere"
        )
    if min(*widths, classes) < 1:
        raise ModelError(f"sizes are at least 1, found widths {list(widths)}, classes {classes}")

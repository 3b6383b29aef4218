"""Numbers and facts as the page writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from understudy.policy import PolicyStage

_MINUS = re.compile(r"(?<![\w.)-])-(?=\d)|(?<=\de)-(?=\d)")


def typeset(text: str) -> str:
    """A text with minus signs, whose numbers keep their percent sign on the line.

    >>> typeset("-0.5 %") == "−0.5\N{NO-BREAK SPACE}%"
    True
    """
    return minus(text).replace(" %", "\N{NO-BREAK SPACE}%")


def minus(text: str) -> str:
    """A text whose negative numbers have a minus sign in place of the hyphen; names keep theirs.

    >>> minus("vit-7b loses -0.25 [-1, +2]")
    'vit-7b loses −0.25 [−1, +2]'
    """
    return _MINUS.sub("\N{MINUS SIGN}", text)


def stage_rule(stage: PolicyStage) -> str:
    """When a stage answers.

    >>> stage_rule(PolicyStage("tiny", 0.25)), stage_rule(PolicyStage("big"))
    ('when max_softmax ≥ 0.25', 'whatever is left')
    """
    if stage.threshold is None:
        return "whatever is left"
    return f"when {stage.confidence} ≥ {minus(f'{stage.threshold:.6g}')}"


def facts(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain JSON as names and texts; what is None or empty is left out.

    Values that lie deeper than one mapping in another are one text.

    >>> list(facts({"split": {"by": "id", "shares": {"tune": 1}}, "size": [3, 32], "group": None}))
    [('split by', 'id'), ('split shares', 'tune 1'), ('size', '3, 32')]
    >>> list(facts({"runs": [{"batch": 8, "libraries": {"torch": "2.6"}}, {"batch": 9}]}))
    [('runs', 'batch 8, libraries torch 2.6; batch 9')]
    """
    for key, value in data.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping) and not prefix:
            yield from facts(value, name)
        elif text := _text(value):
            yield name, text


def _text(value: Any) -> str:
    """A value of plain JSON as words; none for what is None or empty."""
    if isinstance(value, Mapping):
        inner = ((str(key).replace("_", " "), _text(one)) for key, one in value.items())
        return ", ".join(f"{key} {text}" for key, text in inner if text)
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return between.join(text for text in map(_text, value) if text)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

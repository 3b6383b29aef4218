"""The options of execution modes, by name; PyTorch is not imported."""

from __future__ import annotations

from understudy.errors import ModelError, unknown

PRECISIONS = ("bfloat16", "float16")
OPTIONS = ("folded", "channels_last", *PRECISIONS, "compiled")


def parse_options(text: str) -> tuple[str, ...]:
    """The options of a mode, which are joined by `+`.

    >>> parse_options("folded+bfloat16")
    ('folded', 'bfloat16')

    Raises:
        ModelError: an unknown option, an option twice, or two precisions.
    """
    options = tuple(text.split("+"))
    for option in options:
        if option not in OPTIONS:
            raise ModelError(unknown("execution mode", option, OPTIONS, where=repr(text)))
    precisions = [option for option in options if option in PRECISIONS]
    if len(set(options)) < len(options) or len(precisions) > 1:
        raise ModelError(
            "each execution mode is named once, with one precision at most, found "
            f"{text!r}: leave one out"
        )
    return options

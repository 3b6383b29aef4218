"""The templates of the pages: texts are escaped and typeset, a missing value is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from understudy.app.report.words import typeset


def template_environment() -> Environment:
    """The templates of this folder.

    >>> template_environment().from_string("{{ loss }}").render(loss="-1 < 0")
    '−1 &lt; 0'
    """
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finished,
    )


def _finished(value: Any) -> Any:
    """What a template writes: texts are typeset, markup is as it is."""
    return typeset(value) if isinstance(value, str) and not isinstance(value, Markup) else value

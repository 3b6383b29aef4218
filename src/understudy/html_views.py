"""Views and rows as HTML for notebooks: tables without colours of their own, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_CELL = "padding:0.2em 0.7em;vertical-align:top;white-space:pre-line"


def html_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[bool]
) -> str:
    """A table as HTML; all texts are escaped, and colours are those of the page.

    Args:
        left: (columns,) whether a column is left-aligned.

    >>> html_table("", ["exit"], [["<b>"]], left=[True]).count("&lt;b&gt;")
    1
    """
    align = ["left" if one else "right" for one in left]
    heads = "".join(
        f'<th style="text-align:{side};border-bottom:1px solid;{_CELL}">{escape(name)}</th>'
        for side, name in zip(align, head, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{side};{_CELL}">{escape(cell)}</td>'
            for side, cell in zip(align, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    caption = f"<p><b>{escape(title)}</b></p>" if title else ""
    return (
        f'{caption}<div style="overflow-x:auto"><table style="border-collapse:collapse">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def html_of(view: RenderableType) -> str:
    """A view for a terminal as HTML: its tables and paragraphs.

    >>> from understudy.display import note_of
    >>> html_of(note_of("a < b", heading="Note: "))
    '<p style="max-width:60em"><b>Note: </b>a &lt; b</p>'
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if isinstance(view, Group):
        return "".join(map(html_of, view.renderables))
    if isinstance(view, Padding):
        return html_of(view.renderable)
    if isinstance(view, Table):
        return _table(view)
    if isinstance(view, Text):
        return f'<p style="max-width:60em">{_marked(view)}</p>'
    from understudy.display import plain

    return f"<pre>{escape(plain(view))}</pre>"


def _table(table: Table) -> str:
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    return html_table(
        _plain(table.title or ""),
        [_plain(column.header) for column in table.columns],
        list(zip(*columns, strict=True)),
        left=[column.justify == "left" for column in table.columns],
    )


def _plain(cell: Any) -> str:
    return str(getattr(cell, "plain", cell))


def _marked(text: Text) -> str:
    """A text with its bold beginning."""
    bold = max((span.end for span in text.spans if span.start == 0), default=0)
    head = f"<b>{escape(text.plain[:bold])}</b>" if bold else ""
    return head + escape(text.plain[bold:].rstrip("\n"))

"""Views and rows as HTML for notebooks: tables without colours of their own, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from understudy.text_table import Paragraph, TextTable

if TYPE_CHECKING:
    from rich.console import RenderableType

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

    >>> html_of(Paragraph("a < b", heading="Note: "))
    '<p style="max-width:60em"><b>Note: </b>a &lt; b</p>'
    """
    from rich.console import Group
    from rich.text import Text

    from understudy.display import plain

    if isinstance(view, Group):
        return "".join(map(html_of, view.renderables))
    if isinstance(view, TextTable):
        return _table(view)
    if isinstance(view, Text):
        return f"<p><b>{escape(view.plain)}</b></p>"
    if isinstance(view, Paragraph):
        head = f"<b>{escape(view.heading)}</b>" if view.heading else ""
        return f'<p style="max-width:60em">{head}{escape(view.text.strip())}</p>'
    return f"<pre>{escape(plain(view))}</pre>"


def _table(table: TextTable) -> str:
    return html_table(
        table.title,
        [column.head.replace("\n", " ") for column in table.columns],
        [[str(cell) for cell in row] for row in table.rows],
        left=[column.kind != "figure" for column in table.columns],
    )

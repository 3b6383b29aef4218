"""Charts as files: SVG, PNG and PDF, drawn in this process without network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.files import replacing

FORMATS = (".svg", ".png", ".pdf")
PIXELS = 2.0  # of a PNG per pixel of the chart, so that it stays sharp on dense screens


def check_format(path: str | Path) -> None:
    """Refuse a path whose ending is no format.

    >>> check_format("a.gif")
    Traceback (most recent call last):
    understudy.errors.UnderstudyError: a plot is written as .svg, .png or .pdf, found the path
    'a.gif': give it one of these endings

    Raises:
        UnderstudyError: the message has the path.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise UnderstudyError(
            f"a plot is written as .svg, .png or .pdf, found the path {str(path)!r}: give it one "
            "of these endings"
        )


def write_chart(chart: Any, path: str | Path) -> int:
    """Write a chart of Altair in the format of the path's ending, atomically; the number of bytes.

    >>> from tempfile import TemporaryDirectory
    >>> import altair
    >>> chart = altair.Chart(altair.Data(values=[{"cost": 1}])).mark_point().encode(x="cost:Q")
    >>> with TemporaryDirectory() as folder:
    ...     write_chart(chart, f"{folder}/figure.svg") > 1000
    True

    Raises:
        UnderstudyError: the ending is no format, or the file cannot be written.
    """
    check_format(path)
    ending = Path(path).suffix.lower()
    page = _text(chart) if ending == ".svg" else _bytes(chart, ending[1:])
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def _text(chart: Any) -> bytes:
    stream = io.StringIO()
    chart.save(stream, format="svg")
    return stream.getvalue().encode()


def _bytes(chart: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    chart.save(stream, format=kind, **({"scale_factor": PIXELS} if kind == "png" else {}))
    return stream.getvalue()

"""What a page looks like in a real browser: Chromium lays it out, a script measures it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def measured(pages: Sequence[str], script: str, *, width: int, folder: Path) -> list[Any]:
    """What a function `measure(document)` in JavaScript finds in every page at a width in pixels.

    Skips the test where there is no Chromium. The policy of the pages, which allows no script, is
    removed.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser to lay pages out in: none of {', '.join(NAMES)} is installed")
    without_policy = (re.sub(r"<meta http-equiv=[^>]*>", "", page) for page in pages)
    look = f'width="{width}" height="900" style="border:0"'
    frames = "".join(
        f'<iframe {look} srcdoc="{html.escape(page)}"></iframe>' for page in without_policy
    )
    file = folder / "frames.html"
    file.write_text(
        f"<!DOCTYPE html>{frames}<pre></pre><script>{script}\n"
        "onload = () => { const frames = [...document.querySelectorAll('iframe')];"
        "const found = frames.map(frame => measure(frame.contentDocument));"
        "frames.forEach(frame => frame.remove());"
        "document.querySelector('pre').textContent = JSON.stringify(found); }</script>",
        encoding="utf-8",
    )
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom")
    profile = f"--user-data-dir={folder / 'profile'}"
    ran = subprocess.run(
        [program, *switches, profile, file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<pre>(.*?)</pre>", ran.stdout, re.DOTALL)
    assert found, ran.stderr
    measurements: list[Any] = json.loads(html.unescape(found[1]))
    return measurements


def contrast(one: str, other: str) -> float:
    """The contrast of two colours `#rrggbb` by WCAG 2, from 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def colour_schemes(css: str) -> Mapping[str, tuple[str, str]]:
    """Variable -> its colours on light and on dark ground."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)
    return {name: (light, dark) for name, light, dark in pairs}


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

"""Take the pictures of the page of a server that answers the CIFAR-10 test images.

    python docs/images/serving_page.py

The cascade is that of benchmarks/serving.py. Images arrive at random times for three minutes; after
half of them the operating point is changed. Then Chromium takes serving-*.png next to this file.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import browser  # noqa: E402
from load_client import Job, Phase  # noqa: E402
from server_process import loading  # noqa: E402
from serving import ours, set_point  # noqa: E402
from serving_cascade import served  # noqa: E402
from serving_checks import requests_of  # noqa: E402

RATES = (50.0, 80.0, 60.0)  # images per second
SECONDS = 60.0  # of each rate
WIDTH = 1080
COLOURS = 128


def shot(page: browser.Page, url: str, file: Path, *, dark: bool) -> None:
    """The head of the page, down to the live charts."""
    page.open(url, width=WIDTH, dark=dark)
    page.until("document.querySelectorAll('canvas').length >= 4")
    time.sleep(1.5)
    end = page.run("document.querySelector('#live details').getBoundingClientRect().top")
    whole = Image.open(io.BytesIO(page.screenshot()))
    head = whole.convert("RGB").crop((0, 0, whole.width, round(end)))
    head.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    one = served()
    phases = tuple(Phase(SECONDS, rate=rate) for rate in RATES)
    with ours(one.folder, "--price", "0.02") as server, tempfile.TemporaryDirectory() as folder:
        job = Job(server.port, "", "", phases)
        with loading(job, requests_of(one.images)), browser.chromium(Path(folder)) as page:
            time.sleep(1.5 * SECONDS)
            set_point(server, "drop-1")
            time.sleep(1.4 * SECONDS)
            for theme in ("light", "dark"):
                url = f"http://127.0.0.1:{server.port}/"
                shot(page, url, HERE / f"serving-{theme}.png", dark=theme == "dark")


if __name__ == "__main__":
    main()

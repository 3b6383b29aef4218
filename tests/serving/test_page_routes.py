"""The routes of the page: its files, their headers, and the pictures."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import chromium
from install_sizes import NotFetched, build_wheel
from page_server import StandIn, busy
from understudy import serving
from understudy.app.report import drawing
from understudy.serving.page_routes import page_files, small_png

FOLDER = Path(str(serving.__file__)).parent / "page"
ROOT = Path(__file__).resolve().parents[2]
VENDORED = FOLDER / "vendor" / "uplot"
OWN = [path for path in FOLDER.iterdir() if path.suffix in {".html", ".css", ".js"}]


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(StandIn(busy()).app(), base_url="http://127.0.0.1")


def test_the_page_is_served_below_a_mount_path(client: TestClient) -> None:
    page = client.get("/below/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/below").url.path == "/below/"
    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(named) >= 5
    for address in (one for one in named if one.startswith("page/")):
        assert client.get(f"/below/{address}").status_code == 200, address
    assert all(not one.startswith(("/", "http")) for one in named)


def test_every_file_has_its_type_and_is_guarded_against_others(client: TestClient) -> None:
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    for path, _ in page_files():
        answer = client.get(f"/below{path}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        expected = types.get(path.rpartition(".")[2])
        assert expected is None or answer.headers["content-type"] == expected


def test_a_file_is_sent_again_only_when_it_has_changed(client: TestClient) -> None:
    first = client.get("/below/page/page.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = client.get("/below/page/page.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/below/page/page.js", headers={"If-None-Match": '"x"'}).status_code == 200


def test_only_files_of_the_page_are_served(client: TestClient) -> None:
    for path in ("page/", "page/../page_routes.py", "page/%2e%2e/page_routes.py", "page/LICENSE"):
        assert client.get(f"/below/{path}").status_code == 404, path
    assert client.post("/below/").status_code == 405


def test_pictures_are_small_and_kept_by_nobody(client: TestClient) -> None:
    answer = client.get("/below/latest/a1b2-0-3.png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    guarded = TestClient(StandIn(busy(), token="secret").app(), base_url="http://127.0.0.1")
    assert guarded.get("/below/latest/a1b2-0-3.png").status_code == 401
    gone = client.get("/below/latest/unknown.png")
    assert gone.status_code == 404
    assert "'unknown'" in gone.json()["error"]


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((3, 480, 640), (96, 72), "RGB"),
        ((1, 28, 28), (28, 28), "L"),
        ((4, 200, 100), (48, 96), "RGBA"),
        ((7, 10, 300), (96, 3), "L"),
        ((3, 2000, 1), (1, 96), "RGB"),
    ],
)
def test_pictures(shape: tuple[int, ...], size: tuple[int, int], mode: str) -> None:
    image = np.full(shape, 255, np.uint8)
    picture = Image.open(io.BytesIO(small_png(image)))
    assert (picture.size, picture.mode) == (size, mode)
    assert set(np.asarray(picture).ravel().tolist()) == {255}


def test_uplot_is_unchanged() -> None:
    """The hashes are those of its note, which stand for the package of the registry."""
    note = (VENDORED / "README.md").read_text()
    hashes = dict(re.findall(r"^\| `([\w.]+)` .*`([0-9a-f]{64})`", note, re.M))
    assert set(hashes) == {path.name for path in VENDORED.iterdir()} - {"README.md"}
    for name, expected in hashes.items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == expected, name
    assert "uPlot 1.6.32" in note
    assert (VENDORED / "LICENSE").read_text().startswith("The MIT License")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_texts_of_users_never_become_markup(path: Path) -> None:
    """No inline script or style, no markup from strings, nothing from elsewhere."""
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.findall(r"https?://|//cdn|@import|localStorage", text)
    assert len(text.splitlines()) <= 400
    if path.suffix == ".html":
        assert not re.findall(r"<style|<script>|\sstyle=|\son\w+=", text)


def test_the_colours_are_those_of_the_report() -> None:
    report = Path(drawing.__file__).with_name("page.css").read_text(encoding="utf-8")
    page = (FOLDER / "page.css").read_text(encoding="utf-8")
    colours = chromium.colour_schemes(page)
    assert colours == chromium.colour_schemes(report)
    scripts = "".join(path.read_text(encoding="utf-8") for path in OWN)
    assert set(re.findall(r"var\(--(\w+)\)", scripts)) <= set(colours)


def test_the_pictures_of_the_page_are_small_and_come_in_light_and_dark() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        picture = ROOT / "docs" / "images" / f"serving-{theme}.png"
        assert picture.stat().st_size < 150_000
        assert f"images/{picture.name}" in page


@pytest.mark.slow
def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    try:
        wheel = build_wheel(tmp_path)
    except NotFetched as error:
        pytest.skip(f"no wheel can be built here: {error}")
    names = set(zipfile.ZipFile(wheel).namelist())
    licence = "licenses/src/understudy/serving/page/vendor/uplot/LICENSE"
    assert any(name.endswith(licence) for name in names)
    for file in FOLDER.rglob("*"):
        if file.is_file():
            assert f"understudy/serving/page/{file.relative_to(FOLDER).as_posix()}" in names

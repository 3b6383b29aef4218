"""The documentation site: whole, without broken links, and readable in a browser."""

from __future__ import annotations

import doctest
import json
import shutil
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from browser import Page, chromium
from doc_pages import ROOT

pytest.importorskip("griffe", reason="the tools of the site are not installed")

import build_site
import docstrings
import griffe
from navigation import navigation_faults
from site_links import check_links
from site_sources import PAGES, MissingTarget, on_site, write_sources

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
THEME = {"landmark-unique"}  # a moderate finding: the buttons of all blocks are a nav of no name
SHOWN = ("", "running/", "api/plots/")


def test_every_page_is_in_the_navigation_once() -> None:
    assert navigation_faults(ROOT) == []


def test_faults_of_the_navigation_are_named(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "deep" / "a.md").touch()
    listed = ["deep/b.md", "changelog.md", "changelog.md", "overview.md", "security.md"]
    nav = ", ".join(f'{{ "{number}" = "{page}" }}' for number, page in enumerate(listed))
    (tmp_path / "zensical.toml").write_text(f'[project]\nnav = [{{ "All" = [{nav}] }}]\n')
    assert navigation_faults(tmp_path) == [
        "CONTRIBUTING.md is not in the navigation: add contributing.md to nav",
        "docs/deep/a.md is not in the navigation: add deep/a.md to nav",
        "nav has deep/b.md, and there is no such page",
        "nav has changelog.md 2 times",
    ]


def test_a_link_to_no_file_fails_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Path) -> None:
        raise MissingTarget("docs/a.md: there is no gone.md")

    monkeypatch.setattr(build_site, "write_sources", missing)
    assert build_site.main() == 1
    assert capsys.readouterr().out == "docs/a.md: there is no gone.md\n"


def test_the_site_names_no_other_host() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not {"repo_url", "edit_uri", "site_url"} & set(CONFIG)
    assert "offline" not in CONFIG["plugins"]  # it loads a script from another host


def test_links_lead_to_where_files_lie_on_the_site(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    for name in ("docs/a.md", "SECURITY.md", "run.py", "x.json", "some/Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    page = tmp_path / "docs" / "deep" / "b.md"
    text = (
        "[a](../a.md#one) [s](../../SECURITY.md) [p](../../run.py) [x](../../x.json)\n"
        "[d](../../some) [e](https://example.org/x.md) [h](#here)\n"
        "```\n[code](nowhere.md)\n```\n"
    )
    page.write_text(text)
    written, linked = on_site(text, page, tmp_path)
    assert written == (
        "[a](../a.md#one) [s](../security.md) [p](../repository/run.py.md) "
        "[x](../repository/x.json)\n"
        "[d](../repository/some/index.md) [e](https://example.org/x.md) [h](#here)\n"
        "```\n[code](nowhere.md)\n```\n"
    )
    assert len(linked) == 5
    with pytest.raises(MissingTarget, match=r"docs/deep/b.md: there is no gone.md"):
        on_site("[gone](gone.md)", page, tmp_path)


def test_what_is_linked_becomes_part_of_the_site(tmp_path: Path) -> None:
    for name in PAGES:
        (tmp_path / name).write_text("# Page\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("[all](../some)\n")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "run.py").write_text('"""```"""\n')
    written = write_sources(tmp_path, tmp_path / "out")
    shown = tmp_path / "out" / "repository" / "some"
    assert {shown / "index.md", shown / "run.py.md"} <= set(written)
    assert "- [run.py](run.py.md)" in (shown / "index.md").read_text()
    assert '````python\n"""```"""\n````' in (shown / "run.py.md").read_text()


def test_a_picture_follows_the_scheme_that_the_reader_chose(tmp_path: Path) -> None:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    for name in ("l.svg", "d.svg"):
        (tmp_path / "docs" / "images" / name).touch()
    picture = (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="docs/images/d.svg">\n'
        '  <img src="docs/images/l.svg" alt="a chart" width="820">\n</picture>'
    )
    text, _ = on_site(picture, tmp_path / "README.md", tmp_path)
    assert text == (
        '<img src="images/l.svg#only-light" alt="a chart" width="820"> '
        '<img src="images/d.svg#only-dark" alt="a chart" width="820">'
    )


def test_faults_of_a_built_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h1 id="one">B</h1><img src="../x.png">')
    (tmp_path / "style.css").write_text("a { background: url(https://fonts.example/x.woff) }")
    (tmp_path / "own.js").write_text("import { x } from 'https://cdn.example/y.js';")
    (tmp_path / "index.html").write_text(
        '<a href="b/#one">1</a><a href="b/#two">2</a><a href="c/">3</a><a href="/b/">4</a>'
        '<a href="https://example.org/">5</a><script src="https://cdn.example/x.js"></script>'
    )
    found = check_links(tmp_path)
    assert found.broken == ("b/index.html: ../x.png", "index.html: b/#two", "index.html: c/")
    assert found.foreign == (
        "index.html: https://cdn.example/x.js",
        "style.css: https://fonts.example/x.woff",
        "own.js: https://cdn.example/y.js",
    )
    assert found.external == ("https://cdn.example/x.js", "https://example.org/")


def test_doctests_are_shown_as_code() -> None:
    assert doctest.testmod(docstrings).failed == 0
    assert docstrings.fenced("Adds.\n\n>>> 1\n1\n\n>>> 2\n2\n\nRaises:\n    E: no.") == (
        "Adds.\n\n```pycon\n>>> 1\n1\n\n>>> 2\n2\n```\n\nRaises:\n    E: no."
    )
    assert docstrings.separated("Args:\n    a, b: two\n        lines.\n    c: one.") == (
        "Args:\n    a: two\n        lines.\n    b: two\n        lines.\n    c: one."
    )


def test_signatures_have_values_and_docstrings_name_their_errors(tmp_path: Path) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "faults.py").write_text("class Wrong(ValueError):\n    pass\n")
    (package / "sizes.py").write_text("BATCH = 256\nSizes = int | list[int]\n")
    (package / "verb.py").write_text(
        "from pathlib import Path\nfrom made_up.sizes import BATCH, Sizes\n\n"
        "def run(path: Path, sizes: Sizes = BATCH, **more: int) -> None:\n"
        '    """Run.\n\n    Raises:\n        Wrong: always.\n    """\n'
    )
    extensions = griffe.load_extensions(docstrings.Docstrings)
    run = griffe.load("made_up", search_paths=[tmp_path], extensions=extensions)["verb.run"]
    assert [str(one.annotation) for one in run.parameters] == ["Path", "int | list[int]", "int"]
    assert str(run.parameters["sizes"].default) == "256"
    assert run.resolve("Wrong") == "made_up.faults.Wrong"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the site of this repository can be built."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copyfile(ROOT / "zensical.toml", folder / "zensical.toml")
    (folder / "docs").symlink_to(ROOT / "docs")  # the extension that reads docstrings
    (folder / "src").mkdir()
    (folder / "src" / "understudy").symlink_to(ROOT / "src" / "understudy")
    faulty = (
        'def no_such(a: int) -> None:\n    """One.\n\n    Args:\n        b: another.\n    """\n'
    )
    (folder / "src" / "faulty.py").write_text(faulty)
    return folder


@pytest.fixture(scope="module")
def site(workplace: Path) -> Path:
    return build_site.build(workplace)


@pytest.mark.slow
def test_the_site_is_whole(site: Path) -> None:
    found = check_links(site)
    assert found.broken == ()
    assert found.foreign == ()
    assert found.pages > 60
    assert found.links > 5000
    assert build_site.undocumented(site) == []


@pytest.mark.slow
def test_a_broken_link_or_docstring_fails(
    workplace: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`site` is built before, so that it stays as it was for the other tests."""
    kept = workplace / "kept"
    shutil.copytree(site, kept)
    for fault, words in (
        ("[gone](quickstart.md#no-such-heading)", "anchor does not exist"),
        ("::: understudy.no_such_name", "concepts.md: there is no understudy.no_such_name"),
        ("::: faulty.no_such", "Parameter 'b' does not appear in the function signature"),
    ):

        def write(repository: Path, into: Path, fault: str = fault) -> None:
            write_sources(repository, into)
            with (into / "concepts.md").open("a", encoding="utf-8") as page:
                page.write(f"\n{fault}\n")

        monkeypatch.setattr(build_site, "write_sources", write)
        with pytest.raises(build_site.BuildFailed, match=words) as failed:
            build_site.build(workplace)
        assert "Traceback" not in str(failed.value)
    shutil.rmtree(site)
    kept.rename(site)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """The log of requests is not kept."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN)
@pytest.mark.parametrize(
    ("width", "dark"), [(375, False), (375, True), (1280, False), (1280, True)]
)
def test_a_page_opens(page: Page, address: str, path: str, width: int, dark: bool) -> None:
    page.errors.clear()
    page.open(address + path, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    loaded = page.run("performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded
    assert [one for one in loaded if not one.startswith(address)] == []
    scheme = page.run("document.body.dataset.mdColorScheme")
    assert scheme == ("slate" if dark else "default")
    assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN)
@pytest.mark.parametrize("look", [(375, True), (1280, False), (1280, True)])
def test_axe_finds_nothing_serious(
    page: Page, address: str, axe: str, path: str, look: tuple[int, bool]
) -> None:
    page.open(address + path, width=look[0], dark=look[1])
    found = page.violations(axe)
    assert [one for one in found if one[0] in {"serious", "critical"}] == []
    assert {one[1] for one in found} <= THEME


@pytest.mark.slow
def test_the_toggle_sets_the_scheme_and_its_pictures(page: Page, address: str) -> None:
    page.open(address + "overview/")
    shown = "[...document.images].filter(one => one.offsetParent).map(one => one.src)"
    assert all("#only-light" in src for src in page.run(shown))
    page.run("document.querySelector('#__palette_2').click()")
    page.until("document.body.dataset.mdColorScheme === 'slate'")
    assert all("#only-dark" in src for src in page.run(shown))
    page.run("document.querySelector('#__palette_0').click()")


@pytest.mark.slow
def test_search_finds_the_certificate(page: Page, address: str) -> None:
    page.errors.clear()
    page.open(address)
    page.run("document.querySelector('.md-search__button').click()")
    page.send("Input.insertText", text="certificate")
    page.until("document.querySelectorAll('a[href*=certificates]').length > 1")
    assert page.errors == []


@pytest.mark.slow
def test_the_index_of_search_has_the_pages_and_not_the_copies(site: Path) -> None:
    items = json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]
    places = {item["location"] for item in items}
    assert any(place.startswith("certificates/") for place in places)
    assert any(place.startswith("api/search/#understudy.search") for place in places)
    assert not [place for place in places if place.startswith("repository/")]

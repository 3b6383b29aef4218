"""The links of a built site: internal ones lead somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script", "img", "source", "iframe", "link", "video", "audio", "object", "embed"}
_CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
_JS_IMPORT = re.compile(r"\b(?:from|import|importScripts)\s*\(?\s*[\"'](https?://[^\"']+)")
_SCRIPTED = ("javascript:", "data:", "mailto:")


@dataclass
class Document(HTMLParser):
    """A page: its anchors, and what it links to, as (tag, address)."""

    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.links += [(tag, given[name]) for name in ("href", "src", "data") if name in given]
        if "srcset" in given:
            sources = (part.split()[0] for part in given["srcset"].split(","))
            self.links += [(tag, source) for source in sources]
        if "style" in given:
            self.links += [("style", address) for address in _loaded_by(given["style"])]


@dataclass(frozen=True)
class LinkCheck:
    """What was found in a site, as lines ``PAGE: ADDRESS``.

    Attributes:
        pages: how many pages were read.
        links: how many internal links they have.
        broken: internal links whose page, file or anchor does not exist.
        foreign: what pages, style sheets or scripts load from other hosts.
        external: the addresses on other hosts that a reader may go to; they are not fetched.
    """

    pages: int
    links: int
    broken: tuple[str, ...]
    foreign: tuple[str, ...]
    external: tuple[str, ...]


def check_links(site: Path) -> LinkCheck:
    """Read every page, style sheet and script of a built site."""
    documents = {path: _document(path) for path in sorted(site.rglob("*.html"))}
    broken, foreign, external, internal = [], [], set(), 0
    for page, document in documents.items():
        name = page.relative_to(site).as_posix()
        for tag, address in document.links:
            if address.startswith(_SCRIPTED):
                continue
            if urlsplit(address).netloc:
                external.add(address)
                if tag in LOADING or tag == "style":
                    foreign.append(f"{name}: {address}")
                continue
            internal += 1
            if not _exists(address, page, site, documents):
                broken.append(f"{name}: {address}")
    for sheet in sorted(site.rglob("*.css")):
        urls = _loaded_by(sheet.read_text(encoding="utf-8"))
        foreign += [f"{sheet.name}: {url}" for url in urls if urlsplit(url).netloc]
    for script in sorted(site.rglob("*.js")):
        imported = _JS_IMPORT.findall(script.read_text(encoding="utf-8"))
        foreign += [f"{script.name}: {url}" for url in imported]
    return LinkCheck(
        len(documents), internal, tuple(broken), tuple(foreign), tuple(sorted(external))
    )


def _document(path: Path) -> Document:
    document = Document()
    document.feed(path.read_text(encoding="utf-8"))
    return document


def _loaded_by(style: str) -> Iterator[str]:
    for one, other in _CSS_URL.findall(style):
        if not (address := one or other).startswith("data:"):
            yield address


def _exists(address: str, page: Path, site: Path, documents: dict[Path, Document]) -> bool:
    parts = urlsplit(address)
    target = page
    if parts.path.startswith("/"):
        target = site / unquote(parts.path).lstrip("/")
    elif parts.path:
        target = Path(os.path.normpath(page.parent / unquote(parts.path)))
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return False
    anchor = unquote(parts.fragment)
    if not anchor or anchor.startswith("only-") or target not in documents:
        return True
    return anchor in documents[target].anchors

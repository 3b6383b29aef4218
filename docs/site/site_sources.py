"""The sources of the site: the pages of docs/, and beside them the files that they link to.

Links out of docs/ work where the repository is read; on the site they lead to copies. Another page
of the repository becomes a page, a data file is copied, and any other text becomes a page that
shows it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
COPIED = {".json", ".svg", ".png", ".css", ".js", ".ipynb"}
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".sh": "bash", ".slurm": "bash"}
OUTSIDE = PurePosixPath("repository")

_FENCE = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r'(?P<before>\]\(|(?:href|srcset|src)=")(?P<target>[^)"\s]+)')
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)" (?P<rest>[^>]+)>\s*</picture>'
)


class MissingTarget(Exception):
    """A page links to a file that is not in the repository."""


def write_sources(repository: Path, into: Path) -> list[Path]:
    """Write what the site is built from, in place of what is there; the files, in order."""
    shutil.rmtree(into, ignore_errors=True)
    docs = (path for path in sorted((repository / "docs").rglob("*")) if _is_source(path))
    waiting = [*docs, *(repository / name for name in PAGES)]
    written: dict[Path, Path] = {}
    while waiting:
        source = waiting.pop(0)
        if source in written:
            continue
        written[source] = into / place_of(source, repository)
        written[source].parent.mkdir(parents=True, exist_ok=True)
        waiting += _write(source, written[source], repository)
    return list(written.values())


def place_of(source: Path, repository: Path) -> PurePosixPath:
    """Where a file or folder of the repository lies among the sources of the site."""
    path = PurePosixPath(source.relative_to(repository).as_posix())
    if path.as_posix() in PAGES:
        return PurePosixPath(PAGES[path.as_posix()])
    base = path.relative_to("docs") if path.parts[0] == "docs" else OUTSIDE / path
    if source.is_dir():
        return base / "index.md"
    return base if base.suffix in {".md", *COPIED} else base.with_name(f"{base.name}.md")


def _is_source(path: Path) -> bool:
    return path.suffix in {".md", *COPIED} and "__pycache__" not in path.parts


def _write(source: Path, target: Path, repository: Path) -> list[Path]:
    """Write one source; what it links to."""
    if source.is_dir():
        files = list(_files(source))
        target.write_text(_listing(source, files, repository), encoding="utf-8")
        return files
    if source.suffix in COPIED:
        shutil.copyfile(source, target)
        return []
    text = source.read_text(encoding="utf-8")
    if source.suffix != ".md":
        target.write_text(_shown(source, text, repository), encoding="utf-8")
        return []
    text, linked = on_site(text, source, repository)
    target.write_text(text, encoding="utf-8")
    return linked


def on_site(text: str, source: Path, repository: Path) -> tuple[str, list[Path]]:
    """A page with the links and pictures of the site; the files of the repository it links to."""
    linked: list[Path] = []
    here = place_of(source, repository).parent

    def moved(found: re.Match[str]) -> str:
        path, hash_, anchor = found["target"].partition("#")
        if not path or ":" in path:
            return found[0]
        file = Path(os.path.normpath(source.parent / path))
        if not file.exists():
            raise MissingTarget(f"{source.relative_to(repository)}: there is no {path}")
        linked.append(file)
        there = os.path.relpath(place_of(file, repository), here)
        return f"{found['before']}{there}{hash_}{anchor}"

    def prose(text: str) -> str:
        return _LINK.sub(moved, _PICTURE.sub(_by_scheme, text))

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [prose(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, prose(text[end:])]), linked


def _by_scheme(picture: re.Match[str]) -> str:
    """A picture for light and one for dark ground, shown by the scheme that the reader chose."""
    images = (f'<img src="{picture[s]}#only-{s}" {picture["rest"]}>' for s in ("light", "dark"))
    return " ".join(images)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _listing(folder: Path, files: list[Path], repository: Path) -> str:
    here = place_of(folder, repository).parent
    rows = (
        f"- [{path.relative_to(folder).as_posix()}]"
        f"({os.path.relpath(place_of(path, repository), here)})"
        for path in files
    )
    return _page(folder.relative_to(repository).as_posix(), "\n".join(rows))


def _shown(source: Path, text: str, repository: Path) -> str:
    ticks = max(("`" * 3, *(f"{run}`" for run in re.findall(r"`{3,}", text))), key=len)
    language = LANGUAGES.get(source.suffix, "text")
    body = f"{ticks}{language}\n{text.rstrip()}\n{ticks}"
    return _page(source.relative_to(repository).as_posix(), body)


def _page(title: str, body: str) -> str:
    return f"---\nsearch:\n  exclude: true\n---\n\n# {title}\n\n{body}\n"

"""Modules that specs may import: all in specs that you write, those you allow in files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import ModelError, listed


def check_allowed(
    module: str, factory: str, *, allow_code: Collection[str], found_in: str | Path | None
) -> None:
    """Refuse to import what a file names, unless the module or a package around it was allowed.

    Args:
        module, factory: what the spec names.
        allow_code: the modules that files may name; a package stands for all its modules.
        found_in: the file that the spec was read from; None for a spec that you write.

    >>> check_allowed("nets", "tiny", allow_code=[], found_in=None)
    >>> check_allowed("nets.small", "tiny", allow_code=["nets"], found_in=Path("cascade.json"))
    >>> check_allowed("nets", "tiny", allow_code=[], found_in=Path("cascade.json"))
    Traceback (most recent call last):
    understudy.errors.ModelError: files run no code unless you allow it, 'cascade.json' would import
    the module 'nets' and call its 'tiny': if you trust that module, add --allow-code nets
    (allow_code=['nets'] in Python)

    Raises:
        ModelError: the module was not allowed.
    """
    if isinstance(allow_code, str):
        raise ModelError(
            f"allow_code is a list of modules, found the text {allow_code!r}: give [{allow_code!r}]"
        )
    packages = {module[:end] for end, sign in enumerate(module) if sign == "."} | {module}
    if found_in is not None and not packages & set(allow_code):
        others = f"; allowed are {listed(map(repr, allow_code))}" if allow_code else ""
        raise ModelError(
            f"files run no code unless you allow it, {str(found_in)!r} would import the module "
            f"{module!r} and call its {factory!r}{others}: if you trust that module, add "
            f"--allow-code {module} (allow_code=[{module!r}] in Python)"
        )


@contextmanager
def import_path(found_in: str | Path | None) -> Iterator[None]:
    """The import path for a spec: the working directory first if you wrote it, else as it is."""
    if found_in is not None:
        yield
        return
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:  # the module may have changed it
            sys.path.remove(here)

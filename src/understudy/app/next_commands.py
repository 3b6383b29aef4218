"""The command that builds a cascade from a result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from understudy.choice import Choice
from understudy.ensemble import ensemble_of
from understudy.result import Result


def build_command(result: Result, file: str, choices: Sequence[Choice]) -> str:
    """The command that builds a cascade of some of the result's choices.

    It has an option for every model that the result knows by name alone, and one for every module
    of the user's own that makes a model.

    Args:
        result: what a search found.
        file: the file that it stands in.
        choices: all of them, or the one whose budget is named.
    """
    origins = {single.name: single.origin for single in result.singles}
    exits = {name: ensemble_of(origins[name]) for one in choices for name in one.policy.exits}
    models = {m for name, one in exits.items() for m in ((name,) if one is None else one.exits)}
    specs = {name: origins[name].get("spec") for name in sorted(models)}
    words = ["understudy", "build", file]
    if len(choices) < len(result.choices):
        words += ["--max-drop", f"{choices[0].max_drop:g}"]
    words += ["--into", "cascade"]
    for name in (name for name, spec in specs.items() if spec is None):
        words += ["--model", f"{name}=SPEC"]
    modules = {spec.split(":")[1] for spec in specs.values() if spec and spec.startswith("py:")}
    for module in sorted(modules):
        words += ["--allow-code", module]
    return shlex.join(words)

"""demo: every step on scikit-learn's digits, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli.options import Device, Json, option
from understudy.app.cli.terminal import answer, note, progress
from understudy.display import group_of, note_of, percent, shares_text

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.app.demo import DemoRun


def demo(
    into: Annotated[Path, option("DIR", "The folder to write.")] = Path("demo"),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Run every step on scikit-learn's digits, in about a minute.

    Six networks are trained, scored, searched and certified; the chosen cascade is built, run and
    compared with its prediction, and a report is written.
    """
    with progress("steps") as advance:
        from understudy.app.demo import run_demo

        found = run_demo(into, device=device, on_step=_show_step, on_progress=advance)
    answer(_view(found), found.to_dict(), as_json=as_json)


def _show_step(title: str, commands: tuple[str, ...]) -> None:
    note(title, style="bold")
    for command in commands:
        note(f"  $ {command}")


def _view(found: DemoRun) -> Group:
    from understudy.outcome import points

    outcome, seconds = found.choice.outcome, found.seconds
    probability = 1 - found.result.delta
    lines = [
        f"The cascade saves {percent(outcome.saving['MACs'])} of the MACs of "
        f"{found.result.reference}; with probability {probability:g} its drop is certified to be "
        f"at most {points(found.choice.max_drop)}.",
        f"Answered by {shares_text(outcome.shares)}.",
        f"As run, {found.agreeing} of {found.compared} held-out images have the predicted answer "
        "from the predicted exit.",
        f"Time: {', '.join(f'{step} {lap:.1f} s' for step, lap in seconds.items())}.",
        f"Open {found.folder / 'report.html'} in a browser.",
    ]
    return group_of(found.result.view(), note_of("\n" + "\n".join(lines)))

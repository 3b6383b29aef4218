"""demo: the whole job in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from understudy.app.cli.terminal import answer, note, progress
from understudy.display import percent, shares_text
from understudy.outcome import points

if TYPE_CHECKING:
    from understudy.app.demo.story import DemoRun


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Start here")(demo)


def demo(
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the demo puts its files.")
    ] = Path("demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Do the whole job on scikit-learn's digits, in about a minute.

    Six networks are trained on the spot, scored, searched, certified, built into a cascade and run;
    the last step writes a report.
    """
    from understudy.app.demo.story import tell

    with progress("steps") as advance:
        story = tell(into, say=note, on_progress=advance)
    answer(_view(story), story.to_dict(), as_json=as_json)


def _view(story: DemoRun) -> Group:
    outcome, result = story.choice.outcome, story.result
    laps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in story.seconds.items())
    lines = [
        f"  At a drop certified to be at most {points(story.choice.max_drop)} the cascade saves "
        f"{percent(outcome.saving['MACs'])} of the MACs of {result.reference}",
        f"  ({shares_text(outcome.shares)}).",
        f"  Run for real, it gave the predicted answer from the predicted exit for "
        f"{story.agreeing} of {story.compared} test images.",
        f"  Time: {laps}.",
        f"  Open {story.folder / 'report.html'} in a browser.",
    ]
    return Group(result.view(), Text(""), Text("\n".join(lines)))

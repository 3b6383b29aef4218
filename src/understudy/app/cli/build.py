"""build: a chosen policy becomes a cascade on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from understudy.app.cli import options, terminal
from understudy.display import cost_text, group_of, note_of
from understudy.written_places import check_result


def build(
    result: options.ResultPath,
    into: Annotated[Path, options.option("CASCADE", "The folder to write.")],
    max_drop: Annotated[
        float | None,
        options.option(
            "POINTS",
            "Build the policy of this budget alone. [dim]Default: those of all budgets, set "
            "to the first.[/]",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        options.option("NAME=SPEC", "A model that the table knows by name only. Repeat it."),
    ] = None,
    allow_code: options.AllowCode = None,
    as_json: options.Json = False,
) -> None:
    """Make a cascade that runs: policy, certified operating points and weights in one folder."""
    check_result(result)
    specs = options.named_values(model or (), "--model")
    with terminal.stdout_to_stderr():
        from understudy.app.build_cascade import build_cascade
        from understudy.app.run_cascade import library_warnings
        from understudy.result import Result

        found = Result.load(result)
        cascade, choice = build_cascade(
            found,
            into,
            max_drop=max_drop,
            specs=specs,
            found_in=result,
            allow_code=allow_code or (),
        )
        warnings = library_warnings(found.table)
    for message in warnings:
        terminal.note(message)
    data = {
        "cascade": str(into),
        "policy": choice.policy.to_dict(),
        "frontier": [point.to_dict() for point in cascade.operating_points],
        "stages": {name: dict(stage.origin) for name, stage in cascade.stages.items()},
    }
    others = ", ".join(
        f"{point.name} at {cost_text(point.cost, point.unit)} {point.unit}"
        for point in cascade.operating_points
        if point.policy != choice.policy
    )
    lines = [
        choice.policy.describe(),
        *([f"other operating points: {others}"] if others else []),
        f"written to {into}",
    ]
    code = "".join(f" --allow-code {module}" for module in allow_code or ())
    folder = terminal.quoted(into)
    words = f"{folder} --data folder:images/{code}"
    steps = terminal.next_steps(
        f"understudy run {words}", f"understudy bench {words}", f"understudy serve {folder}{code}"
    )
    view = group_of(note_of("\n".join(lines) + "\n"), steps)
    terminal.answer(view, data, as_json=as_json)

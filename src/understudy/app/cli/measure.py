"""measure: the times of a table's models, measured again on this machine."""

from __future__ import annotations

from typing import Annotated

from understudy.app.cli import options, terminal


def measure(
    table: options.TablePath,
    batches: Annotated[
        list[str] | None,
        options.option(
            "SIZES",
            "Images per batch: 64, or 1,16,64. [dim]Default: those that the table has times "
            "for.[/]",
        ),
    ] = None,
    data: Annotated[
        str | None,
        options.option("DATA", "Images to time. [dim]Default: those that were scored.[/]"),
    ] = None,
    device: options.Device = None,
    allow_code: options.AllowCode = None,
    as_json: options.Json = False,
) -> None:
    """Measure the times of a table's models again: all of them in turns, on this machine.

    Predictions stay as they are, and so does what was certified. The models have to be those that
    were scored. Results that were searched before have the older times: search again.
    """
    from understudy.app.cli.score import note_times
    from understudy.zoo.data_specs import parse_data_spec

    if data is not None:
        parse_data_spec(data)
    sizes = options.batch_sizes(batches, "--batches") if batches else ()
    with terminal.progress("rounds") as advance:
        from understudy.scoring.table_times import measure_table

        scores = measure_table(
            table,
            batches=sizes,
            data=data,
            device=device,
            allow_code=allow_code or (),
            on_progress=advance,
        )
    note_times(scores)
    terminal.answer_table(
        scores,
        table,
        as_json=as_json,
        done="times written to",
        times={unit: dict(parts) for unit, parts in scores.times.items()},
        sittings=[one.to_dict() for one in scores.sittings],
    )

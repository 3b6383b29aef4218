"""Logs of a server: one JSON object per line."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import TextIO

import orjson

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; the rest was given as `extra`."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and what `extra` had.

    >>> record = logging.makeLogRecord({"msg": "draining", "seconds": 5, "created": 0.0})
    >>> JsonFormatter().format(record)[:46]
    '{"time":"1970-01-01T00:00:00.000Z","level":"le'
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{stamp}.{int(record.created * 1000) % 1000:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in _OWN},
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return orjson.dumps(entry, default=str).decode()


def log_json(stream: TextIO | None = None) -> None:
    """Send the records of this package, and warnings of all others, to stderr as JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("understudy").setLevel(logging.INFO)
    logging.captureWarnings(True)  # those of Python, too

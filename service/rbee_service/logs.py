"""Log lines of the worker and of the libraries under it: one format, one stream, one line each."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rbee_runtime.terminal import has_styles


def configure_logging(style: Literal["json", "console"]) -> None:
    """Send every log line to stderr.

    Args:
        style: One JSON object a line, or something for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    if style == "json":
        rendering: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        rendering = [
            _escape_controls,
            structlog.dev.ConsoleRenderer(
                colors=has_styles(sys.stderr),
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries speak up for trouble only: requests and connections are told by the worker itself.
    root.setLevel(logging.WARNING)
    logging.getLogger("rbee").setLevel(logging.INFO)
    # Its warnings are advice on running Sanic, which is not the reader's business.
    logging.getLogger("sanic").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=_rbee_logger,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _rbee_logger(*_: object) -> logging.Logger:
    return logging.getLogger("rbee")


def _escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep what a client sent (a job's name, say) from starting a log line of its own."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = "".join(
                c if c.isprintable() else c.encode("unicode_escape").decode() for c in value
            )
    return event

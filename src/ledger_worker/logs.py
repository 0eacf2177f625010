"""Log lines: one JSON object each, on standard error, from us and from the libraries alike."""

import logging
import sys

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from ledger_worker.config import LogLevel

__all__ = ["configure_logs"]


def configure_logs(level: LogLevel) -> None:
    """Every line from here on is JSON with `event`, `level` and `timestamp`; a second call sets the level anew.

    Errors come with their traceback and without the values in its frames, among which may be payloads and secrets.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(number, logging.WARNING))


class _ToStructlog(logging.Handler):
    """Lines of libraries, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """The line is written, at the level nearest to its own."""
        structlog.get_logger().log(record.levelno, "library_log", library=record.name, message=record.getMessage())


def _json(line: object, **_: object) -> bytes:
    return msgspec.json.encode(line, enc_hook=str)

"""What can go wrong, as a tree; nothing else may live here.

An expected outcome is a value (`domain.outcomes`), never an exception. What is raised is one of:

    LedgerError
    |- ConfigurationError      stop before starting: a setting, a missing prerequisite, a schema too old or too new
    |- BadBytesError           one record cannot be read: it becomes a dead letter, the rest goes on
    |- UnavailableError        database, broker or registry away: keep the batch, back off, try again
    |  |- OverloadedError      more wait for an answer than may: nothing was done, ask again later
    |  |- UnansweredError      a request got no answer: nothing or all of it was done, ask again under its key
    |- FencedError             another owner took the partition or lane: drop buffers, write nothing
    |- BrokenInvariantError    the ledger would contradict itself: a bug of ours, nothing is committed

Everything else that escapes is a bug and crashes the process with nothing committed.
"""

__all__ = [
    "BadBytesError",
    "BrokenInvariantError",
    "ConfigurationError",
    "FencedError",
    "LedgerError",
    "OverloadedError",
    "UnansweredError",
    "UnavailableError",
]


class LedgerError(Exception):
    """The root of what this project raises on purpose."""


class ConfigurationError(LedgerError):
    """Something must be set right by a person before the process can start; the message says what and how."""


class BadBytesError(LedgerError):
    """One record cannot be read as an event.

    `reason` is a member of `domain.outcomes.DeadLetterReason` (as its string value), the message says what was
    expected.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnavailableError(LedgerError):
    """Something this process depends on is away; the same work may succeed later."""


class OverloadedError(UnavailableError):
    """As many wait for an answer as may; nothing was done of what was asked, it may be asked again later."""


class UnansweredError(UnavailableError):
    """A request got no answer, in its time or at all; whether it was granted is open.

    Asked again under the same key it is answered as it was decided then, or decided now.
    """


class FencedError(LedgerError):
    """Another owner holds the partition or lane now; what this owner buffered must be dropped."""


class BrokenInvariantError(LedgerError):
    """An identity of the ledger would break; the message names customer and event. Nothing was committed."""

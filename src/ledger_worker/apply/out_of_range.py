"""What 64 bits do not hold is refused as PostgreSQL would refuse it: the event at fault is then found as always."""

from psycopg.errors import NumericValueOutOfRange
from sqlalchemy.exc import DataError

__all__ = ["out_of_range"]


def out_of_range(what: str, error: Exception) -> DataError:
    """The error to raise for a sum that is too large, with PostgreSQL's SQLSTATE for it; `what` says of what."""
    return DataError(what, None, NumericValueOutOfRange(str(error)))

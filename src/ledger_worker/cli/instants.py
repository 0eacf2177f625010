"""Instants as people write and read them."""

from datetime import UTC, datetime

import typer

__all__ = ["exactly", "instant_of", "shown"]


def instant_of(text: str) -> datetime:
    """Raises BadParameter unless the text is an instant with its distance from UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant, expected one such as 2026-03-01T00:00:00Z") from None
    if found.tzinfo is None:
        whole = found.isoformat()
        raise typer.BadParameter(f"{text} is without a zone, expected {whole}Z or {whole}+01:00")
    return found


def shown(instant: datetime | None) -> str | None:
    """The instant to the second, in UTC; None stays None."""
    return None if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def exactly(instant: datetime) -> str:
    """The instant to the microsecond, in UTC, as it can be asked with again."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"

"""Instants as people write and read them."""

from datetime import UTC, datetime

import typer

__all__ = ["exactly", "instant_of", "shown"]


def instant_of(text: str) -> datetime:
    """The instant, in UTC. Raises BadParameter unless the text is one with its distance from UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant, expected one such as 2026-03-01T00:00:00Z") from None
    if found.tzinfo is None:
        whole = found.isoformat()
        raise typer.BadParameter(f"{text} is without a zone, expected {whole}Z or {whole}+01:00")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text} is outside of the years 1 to 9999 in UTC, expected one within") from None


def shown(instant: datetime | None) -> str | None:
    """The instant to the second, in UTC; None stays None."""
    return None if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def exactly(instant: datetime) -> str:
    """The instant to the microsecond, in UTC, as it can be asked with again."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"

"""What each source gives, read off all its facts: the first half of a second opinion.

Grants are plain records, named by what they are for. Every question is answered from all facts, every time. Comments
and docstrings name the paragraph of `docs/reference/rules.md` that the code beside them follows.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.events import Event
from ledger_worker.local.oracle.assignments import assignment_grants
from ledger_worker.local.oracle.facts import source_of
from ledger_worker.local.oracle.given import Given, Made, NameOfGrant, Suspended, TakenBack
from ledger_worker.local.oracle.orders import order_grants
from ledger_worker.local.oracle.owners import Aliases, Owners, aliases_of, folded
from ledger_worker.local.oracle.subscriptions import subscription_grants

__all__ = ["Given", "Made", "NameOfGrant", "Suspended", "TakenBack", "Terms", "given", "terms_of"]


Until = Callable[[str], datetime]


def _from_the_facts(_: str) -> datetime:
    return datetime.min.replace(tzinfo=UTC)


class Terms(NamedTuple):
    """Every grant with the allowance it came by, the owners of every source, and who is who."""

    made: list[Made]
    owners: dict[str, Owners]
    aliases: Aliases


def given(
    events: Sequence[Event],
    catalogue: Catalogue,
    name: NameOfGrant,
    homes: Mapping[str, str] | None = None,
    until: Until = _from_the_facts,
) -> list[Given]:
    """Every grant that the facts give, to whichever customer."""
    return [one.grant for one in terms_of(events, catalogue, name, homes, until).made]


def terms_of(
    events: Sequence[Event],
    catalogue: Catalogue,
    name: NameOfGrant,
    homes: Mapping[str, str] | None = None,
    until: Until = _from_the_facts,
) -> Terms:
    """Every grant that the facts give, from all of them at once.

    `homes` says whose facts about a source came first, where that is not who told the first in order; `until` up to
    which instant what recurs of a source is asked for, and the next one after it.
    """
    sources: dict[str, list[Event]] = {}
    for event in events:
        source = source_of(event.fact)
        if source is not None:
            sources.setdefault(source, []).append(event)
    made: list[Made] = []
    owners: dict[str, Owners] = {}
    aliases = aliases_of(events)
    for source, own in sorted(sources.items()):
        told, owners[source] = folded(own, aliases, (homes or {}).get(source))
        kind = source.partition("/")[0]
        if kind == "order":
            made += order_grants(source, told, catalogue, name, owners[source], until(source))
            continue
        fold = {"subscription": subscription_grants, "assignment": assignment_grants}
        made += fold[kind](source, told, catalogue, name, owners[source])
    return Terms(made, owners, aliases)

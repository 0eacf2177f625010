"""One customer for people: what it may do now, and why: because of which grants, events, rules and versions.

Read in one snapshot, with what is due passed whether or not it is booked, so an answer is right while no clock runs.
Shapes and statements live here, the words in `words`; how they are printed is in neither. What is told of a source may
have been told to another customer, whom a transfer ties to this one: then it is said to whom.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from ledger_worker.domain.access import picture, value_in_force
from ledger_worker.domain.catalogue import Catalogue, Entitlement
from ledger_worker.domain.changes import CustomerPicture, EntitlementPicture
from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.ledger import RULES_VERSION, Account
from ledger_worker.domain.owners import Merges
from ledger_worker.domain.settlement import Book
from ledger_worker.reports.allowing import Verdict, instants_ahead, judged
from ledger_worker.reports.events import ExplainedSource, explained_sources
from ledger_worker.reports.grants import ExplainedGrant, explained_grants, read_givers, read_grants
from ledger_worker.reports.postings import ExplainedPosting, causes_of, last_postings
from ledger_worker.reports.words import rule_words, upcoming_words, value_words
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import pictures

__all__ = ["POSTINGS_MAX", "ExplainedEntitlement", "ExplainedUpcoming", "Explanation", "explain", "show"]

POSTINGS_MAX = 20
"""How many postings are explained when the caller says nothing else, the newest."""


class ExplainedUpcoming(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is known to happen, as a picture names it; `words` says it as a sentence."""

    at: datetime
    what: str
    words: str


class ExplainedEntitlement(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one entitlement and its grants in the order of burning, those that burn no more behind.

    Those of a setting stand in the order in which their values count; `value_because` says why it has its value.
    `refused_because` is why a request for `request_units` (None: for access) would be refused now, None where it would
    not, `rule` by which rule that is so, and `would_allow` what
    would allow it where the answer is no: each way is enough. `upcoming` is what is known to happen anyway.
    """

    decision: EntitlementPicture
    name: str
    unit: str | None
    grants: tuple[ExplainedGrant, ...]
    value_because: str | None
    request_units: int | None
    refused_because: str | None
    rule: str
    would_allow: tuple[str, ...]
    upcoming: tuple[ExplainedUpcoming, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a customer may or may not, as of `as_of`; `sequence` and `recorded_at` are of its last change and event.

    `tied_to` are the customers that transfers tie it to.
    """

    customer_id: str
    as_of: datetime
    timeline: int
    sequence: int
    recorded_at: datetime | None
    tied_to: tuple[str, ...]
    catalogue_version: int
    rules_version: int
    entitlements: tuple[ExplainedEntitlement, ...]
    sources: tuple[ExplainedSource, ...]
    postings: tuple[ExplainedPosting, ...]


def show(connection: Connection, customer_id: str) -> CustomerPicture | None:
    """Every entitlement the customer has or had, as it stands now; None for an unknown customer.

    Begins and ends a transaction of its own: the connection must not be in one.
    """
    with _snapshot(connection).begin():
        return next(iter(pictures.load(connection, [customer_id])), None)


def explain(
    connection: Connection,
    customer_id: str,
    entitlement: str | None = None,
    *,
    units: int = 1,
    postings_max: int = POSTINGS_MAX,
) -> Explanation | None:
    """Why the customer may or may not use each entitlement, or the one that is named; None for an unknown customer.

    What would allow it is said of a request for so many `units`. An entitlement that the customer never had is
    explained too, when it is in the catalogue; one that is not is left out. `postings` are the last ones, newest first,
    with the entries about what is explained. Begins and ends a transaction of its own.
    """
    with _snapshot(connection).begin():
        ledger = catalogue_store.read_ledger(connection)
        catalogue = catalogue_store.read(connection, ledger.catalogue_version)
        heads, _ = customers_store.read_heads(connection, [customer_id])
        if customer_id not in heads:
            return None
        explaining = _Explaining(connection, heads[customer_id], catalogue)
        keys = explaining.keys if entitlement is None else [entitlement]
        explained = [explaining.of(key, units) for key in keys if key in catalogue.entitlements]
        source_keys = sorted({grant.source_key for each in explained for grant in each.grants})
        head = heads[customer_id]
        return Explanation(
            customer_id=customer_id,
            as_of=explaining.as_of,
            timeline=ledger.timeline,
            sequence=head.sequence,
            recorded_at=head.recorded_at,
            tied_to=head.linked,
            catalogue_version=ledger.catalogue_version,
            rules_version=RULES_VERSION,
            entitlements=tuple(explained),
            sources=explained_sources(connection, head, source_keys),
            postings=last_postings(connection, head, keys, catalogue, postings_max=postings_max),
        )


def _snapshot(connection: Connection) -> Connection:
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


class _Explaining:
    """One customer while its entitlements are explained, as of `as_of`; `keys` are those it has or had."""

    def __init__(self, connection: Connection, head: CustomerHead, catalogue: Catalogue) -> None:
        self._connection = connection
        self._head = head
        self._catalogue = catalogue
        now = customers_store.clock(connection)
        self.as_of = now if head.recorded_at is None else max(now, head.recorded_at)
        self._merges: Merges = customers_store.read_merges(connection, [head.customer_id])
        self._opened = self._books(self.as_of)
        self.keys = sorted(self._opened)

    def of(self, key: str, units: int) -> ExplainedEntitlement:
        """The entitlement of that key, which is in the catalogue, and a request for so many units of it."""
        entitlement = self._catalogue.entitlements[key]
        book = self._opened.get(key) or Book(entitlement, Account(entitlement=key), ())
        decision, of_setting = picture(book), value_in_force(book)
        verdict = self._judged(book, decision, units)
        return ExplainedEntitlement(
            decision=decision,
            name=entitlement.name,
            unit=entitlement.unit,
            grants=tuple(self._grants(book)),
            value_because=None if of_setting is None else value_words(of_setting, entitlement),
            request_units=verdict.units,
            refused_because=verdict.reason,
            rule=rule_words(decision, verdict.units, verdict.reason),
            would_allow=verdict.would_allow,
            upcoming=tuple(_upcoming(decision, entitlement)),
        )

    def _grants(self, book: Book) -> Iterable[ExplainedGrant]:
        held = read_grants(self._connection, self._head.customer_id, book.entitlement.key)
        # What is due was passed in the book and is perhaps not booked: of open grants the book knows better.
        present = {grant_id: grant.value() for grant_id, grant in book.grants.items()}
        grants = {grant.terms.grant_id: present.get(grant.terms.grant_id, grant) for grant in held}
        set_by = sorted({grant.set_by for grant in held})
        causes = causes_of(self._connection, self._head.customer_id, set_by)
        return explained_grants(book, grants, read_givers(self._connection, self._head, held), causes, self.as_of)

    def _judged(self, book: Book, decision: EntitlementPicture, units: int) -> Verdict:
        """Whether waiting would help is looked up in the books as they will be, and only where the answer is no."""
        verdict = judged(book, decision, units, self._catalogue, {})
        if verdict.reason is None:
            return verdict
        key = book.entitlement.key
        ahead = {at: picture(self._books(at)[key]) for at in instants_ahead(book)}
        return judged(book, decision, units, self._catalogue, ahead) if ahead else verdict

    def _books(self, at: datetime) -> dict[str, Book]:
        customer_id = self._head.customer_id
        opened = pictures.books(self._connection, [customer_id], self._catalogue, at, self._merges)[customer_id]
        return {book.entitlement.key: book for book in opened}


class _Coming(msgspec.Struct, frozen=True):
    """One of what a picture says is to come."""

    at: datetime
    what: str
    units: int | None = None
    value: msgspec.Raw = msgspec.Raw()


_COMING = msgspec.json.Decoder(tuple[_Coming, ...])


def _upcoming(decision: EntitlementPicture, entitlement: Entitlement) -> Iterable[ExplainedUpcoming]:
    for one in () if decision.upcoming is None else _COMING.decode(decision.upcoming):
        words = upcoming_words(one.at, one.what, one.units, bytes(one.value).decode() or None, entitlement)
        yield ExplainedUpcoming(at=one.at, what=one.what, words=words)

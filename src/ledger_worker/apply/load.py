"""What loads for a decision: what the inbox knows, of whom a source was first told, and the books that may be touched.

Everything here runs behind the customers' locks, but for `read_claimants`, which says whom to lock. One thing is
written: `claim_sources` claims what nobody was told of. The number of statements does not grow with the batch.
Histories are not loaded here: `rounds` reads those that deciding asks for.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from ledger_worker.apply.batch import Delivery
from ledger_worker.domain.catalogue import Catalogue, EntitlementType
from ledger_worker.domain.decide import DUE_MAX
from ledger_worker.domain.decided import CustomerHead, Loaded, LoadedCustomer, Told
from ledger_worker.domain.events import (
    CustomersMerged,
    EntitlementAssigned,
    Fact,
    HoldFact,
    OfferReached,
    OfSource,
    SeatFact,
    UsageRecorded,
    UsageReversed,
    content_hash,
    customers_of,
    event_key,
    fact_bytes,
    source_key,
)
from ledger_worker.domain.ledger import Account, Grant
from ledger_worker.domain.owners import Merge, Merges, goes_on_as
from ledger_worker.domain.refusal import refusal
from ledger_worker.domain.seats import may_evict
from ledger_worker.domain.sources import SourceState, facts_of, skus_of
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import inbox as inbox_store
from ledger_worker.store import sources as sources_store

__all__ = [
    "Group",
    "claim_sources",
    "group_customers",
    "load",
    "load_due",
    "merges_of",
    "read_claimants",
    "read_told",
]


class Group(msgspec.Struct):
    """Customers that are decided together: most often one alone.

    `places` are those of their deliveries in the batch, `told` each delivery as it is to be decided, `keys` the sources
    that are spoken of.
    """

    customer_ids: list[str]
    places: list[int]
    told: list[Told]
    keys: list[str]


def read_claimants(connection: Connection, deliveries: Sequence[Delivery]) -> dict[str, str]:
    """Of whom each source that is spoken of was first told, by its key; a source nobody was told of is missing."""
    spoken_of = {key for one in deliveries if (key := _source_of(one.event.fact)) is not None}
    return sources_store.read_owners(connection, sorted(spoken_of, key=str.encode))


def merges_of(heads: Mapping[str, CustomerHead]) -> dict[str, Merge]:
    """The merges of these customers, each by who goes on as another."""
    return {customer_id: head.merge for customer_id, head in heads.items() if head.merge is not None}


def read_told(
    connection: Connection,
    deliveries: Sequence[Delivery],
    instants: Sequence[datetime],
    heads: Mapping[str, CustomerHead],
) -> list[Told]:
    """Each delivery as it is to be decided, with what the inbox knows of it."""
    keys = [event_key(delivery.event.event_source, delivery.event.event_id) for delivery in deliveries]
    tied = _tied(deliveries, heads)
    asked = [
        (customer_id, key)
        for delivery, key in zip(deliveries, keys, strict=True)
        for customer_id in tied.get(delivery.event.customer_id, (delivery.event.customer_id,))
    ]
    known: dict[UUID, dict[str, bytes]] = {}
    for (customer_id, key), known_hash in inbox_store.find(connection, asked).items():
        known.setdefault(key, {})[customer_id] = known_hash
    nothing: dict[str, bytes] = {}
    all_told = []
    for delivery, key, now in zip(deliveries, keys, instants, strict=True):
        event = delivery.event
        payload = fact_bytes(event.fact)
        all_told.append(
            Told(
                event=event,
                key=key,
                content_hash=content_hash(event, payload),
                payload=payload,
                now=now,
                known=known.get(key, nothing),
            )
        )
    return all_told


def claim_sources(
    connection: Connection,
    all_told: Sequence[Told],
    catalogue: Catalogue,
    usage_kept: timedelta,
    merges: Merges,
) -> dict[str, str]:
    """Of whom each source that is spoken of was first told.

    A source nobody was told of is claimed for the customer of the first event that is not refused.
    """
    first_told: dict[str, str] = {}
    spoken_of: set[str] = set()
    seen: set[tuple[str, UUID]] = set()
    speaking = {told.event.customer_id for told in all_told if isinstance(told.event.fact, OfSource)}
    for told in all_told:
        event = told.event
        key = _source_of(event.fact)
        if key is not None:
            spoken_of.add(key)
        if event.customer_id not in speaking:
            continue
        person = goes_on_as(event.customer_id, merges)
        is_known = (event.customer_id, told.key) in seen or any(
            goes_on_as(each, merges) == person for each in told.known
        )
        if not is_known and refusal(event, told.now, catalogue, usage_kept) is None:
            seen.add((event.customer_id, told.key))
            if isinstance(event.fact, OfSource):
                first_told.setdefault(source_key(event.fact), event.customer_id)
    keys = sorted(spoken_of, key=str.encode)
    claimants = sources_store.read_owners(connection, keys)
    unclaimed = {key: customer_id for key, customer_id in first_told.items() if key not in claimants}
    if unclaimed:
        sources_store.claim(connection, unclaimed)
        claimants = sources_store.read_owners(connection, keys)
    return claimants


def group_customers(
    all_told: Sequence[Told], heads: Mapping[str, CustomerHead], claimants: Mapping[str, str]
) -> list[Group]:
    """The customers of the batch, those that an event or a tie connects together, in key order of their first."""
    group_of = {customer_id: Group([customer_id], [], [], []) for customer_id in heads}

    def unite(one_id: str, other_id: str) -> None:
        """All of the group of either are in one group."""
        one, other = group_of[one_id], group_of[other_id]
        if one is not other:
            one.customer_ids += other.customer_ids
            for customer_id in other.customer_ids:
                group_of[customer_id] = one

    for customer_id, head in heads.items():
        for other in head.linked:
            unite(customer_id, other)
    for told in all_told:
        fact = told.event.fact
        for other in customers_of(told.event)[1:]:
            unite(told.event.customer_id, other)
        if isinstance(fact, OfSource):
            unite(told.event.customer_id, claimants.get(source_key(fact), told.event.customer_id))
    for place, told in enumerate(all_told):
        group = group_of[told.event.customer_id]
        group.places.append(place)
        group.told.append(told)
        key = _source_of(told.event.fact)
        if key is not None:
            group.keys.append(key)
    groups = {id(group): group for group in group_of.values() if group.told}
    for group in groups.values():
        group.customer_ids.sort(key=str.encode)
    return sorted(groups.values(), key=_first_customer)


def load(
    connection: Connection,
    groups: Sequence[Group],
    heads: Mapping[str, CustomerHead],
    claimants: Mapping[str, str],
    catalogue: Catalogue,
) -> list[Loaded]:
    """What the decision about each group reads, in the order of the groups, without histories.

    `keys` of a group in which customers merge grow by the sources that its customers keep: a merge may change them all.
    """
    asked = sorted({(claimants[key], key) for group in groups for key in group.keys if key in claimants})
    states = {key: state for (_, key), state in sources_store.read_states(connection, asked).items()}
    pairs = _touched(groups, states, catalogue)
    merging = [group for group in groups if any(isinstance(told.event.fact, CustomersMerged) for told in group.told)]
    for group in merging:
        kept = sources_store.read_states_kept_by(connection, group.customer_ids)
        group.keys = sorted({*group.keys, *kept}, key=str.encode)
        states |= kept
    if merging:
        pairs = sorted({*pairs, *_touched(merging, states, catalogue), *_all_accounts(connection, merging)})
    accounts = accounts_store.read_accounts(connection, pairs, list(heads), _last_instant(groups, heads, catalogue))
    grants = accounts_store.read_open_grants(connection, sorted({*pairs, *accounts}))
    accounts_of: dict[str, dict[str, Account]] = {customer_id: {} for customer_id in heads}
    for (customer_id, entitlement), account in accounts.items():
        accounts_of[customer_id][entitlement] = account
    nothing: list[Grant] = []
    return [
        Loaded(
            customers={
                customer_id: LoadedCustomer(
                    head=heads[customer_id],
                    accounts=accounts_of[customer_id],
                    grants=grants.get(customer_id, nothing),
                    histories={},
                )
                for customer_id in group.customer_ids
            },
            sources={key: states[key] for key in group.keys if key in states},
            claimants=claimants,
        )
        for group in groups
    ]


def load_due(
    connection: Connection, customer_ids: Sequence[str], heads: Mapping[str, CustomerHead], now: datetime
) -> dict[str, Loaded]:
    """What booking what is due for these customers at `now` reads, for each who has something due.

    `heads` are the customers and those tied to them, who are loaded with them.
    """
    accounts = accounts_store.read_accounts(connection, [], customer_ids, now)
    of_tied = [(each, entitlement) for owner, entitlement in accounts for each in heads[owner].linked]
    if of_tied:
        accounts |= accounts_store.read_accounts(connection, of_tied, [], _BEGINNING)
    grants = accounts_store.read_open_grants(connection, list(accounts))
    by_customer: dict[str, dict[str, Account]] = {}
    for (owner, entitlement), account in accounts.items():
        by_customer.setdefault(owner, {})[entitlement] = account
    return {
        customer_id: Loaded(
            customers={
                each: LoadedCustomer(
                    head=heads[each],
                    accounts=by_customer.get(each, {}),
                    grants=grants.get(each, []),
                    histories={},
                )
                for each in (customer_id, *heads[customer_id].linked)
            },
            sources={},
            claimants={},
        )
        for customer_id in customer_ids
        if customer_id in by_customer
    }


def _source_of(fact: Fact) -> str | None:
    """The source that a fact speaks of."""
    if isinstance(fact, OfSource):
        return source_key(fact)
    return fact.source_key if isinstance(fact, OfferReached) else None


def _tied(deliveries: Sequence[Delivery], heads: Mapping[str, CustomerHead]) -> dict[str, set[str]]:
    """Under which ids a customer's events may be in the inbox: of all who are tied, where any merge is or comes."""
    merging = [delivery.event for delivery in deliveries if isinstance(delivery.event.fact, CustomersMerged)]
    if not merging and not any(head.merge for head in heads.values()):
        return {}
    tied = {customer_id: {customer_id, *head.linked} for customer_id, head in heads.items()}
    for event in merging:
        together = set[str]().union(*(tied[customer_id] for customer_id in customers_of(event)))
        for customer_id in together:
            tied[customer_id] = together
    return tied


def _first_customer(group: Group) -> bytes:
    return group.customer_ids[0].encode()


def _all_accounts(connection: Connection, merging: Sequence[Group]) -> set[tuple[str, str]]:
    """What a merge may touch: of all customers of the group, every account that any of them has."""
    pairs = set()
    for group in merging:
        entitlements = {name for _, name in accounts_store.account_keys(connection, group.customer_ids)}
        pairs |= {(customer_id, name) for customer_id in group.customer_ids for name in entitlements}
    return pairs


def _last_instant(groups: Sequence[Group], heads: Mapping[str, CustomerHead], catalogue: Catalogue) -> datetime:
    """No event of the batch is recorded later: its instant, raised behind the customer's last and what is booked first.

    What falls due in between has to be loaded, also for an account that no event touches: else a split would show.
    """
    instants = [told.now for group in groups for told in group.told]
    instants += [head.recorded_at for head in heads.values() if head.recorded_at is not None]
    evicting = sum(map(may_evict, catalogue.entitlements.values()))
    of_each = 1 + len(_seated(catalogue)) + (2 if evicting else 1) * DUE_MAX
    recorded = sum(of_each * len(group.customer_ids) * len(group.told) for group in groups)
    return max(instants, default=_BEGINNING) + recorded * timedelta(microseconds=1)


def _seated(catalogue: Catalogue) -> list[str]:
    """The entitlements that have seats."""
    return [one.key for one in catalogue.entitlements.values() if one.type is EntitlementType.SEATS]


def _touched(groups: Sequence[Group], states: Mapping[str, SourceState], catalogue: Catalogue) -> list[tuple[str, str]]:
    """The accounts that the events may touch.

    Those of the usage, and of everything any version of the sources' offers gives; of all customers of a group.
    """
    touched = set()
    for group in groups:
        skus: set[str] = set()
        entitlements: set[str] = set()
        facts = [told.event.fact for told in group.told]
        facts += [fact for key in group.keys if key in states for fact in facts_of(states[key])]
        for fact in facts:
            if isinstance(fact, UsageRecorded | UsageReversed | EntitlementAssigned | HoldFact | SeatFact):
                entitlements.add(fact.entitlement)
                if isinstance(fact, SeatFact):  # how many can be told is asked of all holders of the customer
                    entitlements.update(_seated(catalogue))
            elif isinstance(fact, OfSource):
                skus |= skus_of(fact)
        for sku in skus:
            for offer in catalogue.offers.get(sku, ()):
                entitlements |= {allowance.entitlement for allowance in offer.allowances}
        touched |= {(customer_id, entitlement) for customer_id in group.customer_ids for entitlement in entitlements}
    return sorted(touched)


_BEGINNING = datetime.min.replace(tzinfo=UTC)

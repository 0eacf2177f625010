"""The closed lists: what became of an event, and why a record became a dead letter.

Each list may grow and never shrinks: consumers of reports and topics read them as strings.
"""

from enum import StrEnum

__all__ = ["DeadLetterReason", "Outcome"]


class Outcome(StrEnum):
    """What became of a well-formed event, in order of precedence: the first that is true is the one that is stored.

    The outcome is what was true when the event was applied; it is not revised when later facts change the picture.
    """

    DUPLICATE = "duplicate"
    """The same id with the same content was applied before; counted, not stored again."""
    AWAITING_TRANSFER = "awaiting_transfer"
    """Kept, not folded: the source belongs to another customer and no transfer has been told."""
    DUPLICATE_FACT = "duplicate_fact"
    """A new event id tells again, with the same content, what the source already knows under the same business key."""
    WAITING = "waiting"
    """Kept and folded as soon as what it speaks of is told (a refund of an order nobody has told yet)."""
    ALREADY_MERGED = "already_merged"
    """The customer goes on as that one already; told again, or by another way."""
    CONTRADICTED = "contradicted"
    """Kept, but what is told beside it rules it out: a pause over before it began, a second merge into another,
    units or a value that an assignment cannot have."""
    NO_OFFER = "no_offer"
    """At least one SKU had no offer in force; its other lines were granted."""
    NO_PERIOD = "no_period"
    """An allowance lasts a billing period but the order line has none; its other allowances were granted."""
    RECURS_LESS = "recurs_less"
    """So much recurs of the order that some of it ends before its offer says, within ten years: together at most 5,000
    occurrences, of each allowance of a line as many."""
    NOTHING_TO_REFUND = "nothing_to_refund"
    """A refund by amount of an order whose remaining net amount is zero."""
    OVER_REFUNDED = "over_refunded"
    """The refunds of a line or order add up to more than the whole; what exceeds it takes nothing."""
    COUNTED_LATE = "counted_late"
    """Usage from beyond the settlement window; it counts at the instant at which it was recorded (`count_now`)."""
    OVERAGE_LATE = "overage_late"
    """Usage from beyond the settlement window; it counts when it occurred, all of it as overage (`overage`)."""
    IGNORED_LATE = "ignored_late"
    """Usage from beyond the settlement window; it is kept and counts nothing (`ignore_and_tell`)."""
    NO_EFFECT = "no_effect"
    """Folded, and nothing changed (told after something that overrules it)."""
    APPLIED = "applied"
    """Folded or counted as told."""


class DeadLetterReason(StrEnum):
    """Why a record could not be applied, in the order in which the checks are made."""

    UNDECODABLE = "undecodable"
    """The bytes are not a framed Avro record of a known writer schema."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Well framed, but the schema id or fingerprint is not known to the registry or to this release."""
    UNKNOWN_TYPE = "unknown_type"
    """A record type that does not belong on this topic or that this release does not know."""
    IMPOSSIBLE_VALUE = "impossible_value"
    """A value that can be true in no world: quantity zero, a period that ends before it begins."""
    TOO_EARLY = "too_early"
    """`occurred_at` is more than five minutes ahead of the database's clock."""
    TOO_LATE = "too_late"
    """Usage older than the inbox keeps keys: it cannot be proven new."""
    CONFLICTING_CONTENT = "conflicting_content"
    """The id was applied before with other content."""
    UNKNOWN_ENTITLEMENT = "unknown_entitlement"
    """Usage of an entitlement that is not in the catalogue."""
    WRONG_TYPE = "wrong_type"
    """Usage of an entitlement that is no quota; units given by hand of one that has none; a value that it cannot have,
    or none where it is a setting."""
    CIRCULAR_MERGE = "circular_merge"
    """A customer would go on as itself: the other one goes on as this one already."""
    REJECTED_BY_DATABASE = "rejected_by_database"
    """PostgreSQL refused a value (SQLSTATE class 22) that validation let through."""

"""Values to the bytes of a topic: what producers of events write, and what the ledger publishes.

Every function writes the newest version of its schema, framed for a registry when one is given, else as a single
object (`framing`). What is encoded decodes to an equal value. Nothing is checked against the rules of events here: a
test must be able to send what is impossible, and a producer's own check is `domain.impossible.problem`.
"""

from ledger_worker.domain.changes import Change, CustomerPicture
from ledger_worker.domain.events import Event
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.codec import DeadLetterReference, writer_for
from ledger_worker.wire.framing import Registry, frame
from ledger_worker.wire.schemas import BY_HAND, CHANGE, CUSTOMER_STATE, DEAD_LETTER_REFERENCE, FAMILY_OF, TopicFamily

__all__ = [
    "DeadLetterReference",
    "encode_change",
    "encode_customer_state",
    "encode_dead_letter_reference",
    "encode_event",
    "family_of",
]


def family_of(event: Event) -> TopicFamily:
    """The family of the topic that carries the event.

    Raises BadBytesError with the reason that a topic's reader has (`unknown_type`) for acts by hand, and KeyError for
    the ledger's own events: no topic carries either.
    """
    record_type = type(event.fact).__name__
    if record_type in BY_HAND:
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_TYPE,
            f"{record_type} is done by hand, expected a type that the {', '.join(TopicFamily)} topics carry",
        )
    return FAMILY_OF[record_type]


def encode_event(event: Event, registry: Registry | None = None) -> bytes:
    """The record's value that tells the event. Raises KeyError for the ledger's own events: they have no record."""
    record_type = type(event.fact).__name__
    return frame(record_type, writer_for(record_type)(event), registry)


def encode_change(change: Change, registry: Registry | None = None) -> bytes:
    """The EntitlementChanged record that tells the change."""
    return frame(CHANGE, writer_for(CHANGE)(change), registry)


def encode_customer_state(picture: CustomerPicture, registry: Registry | None = None) -> bytes:
    """The CustomerState record that tells the picture."""
    return frame(CUSTOMER_STATE, writer_for(CUSTOMER_STATE)(picture), registry)


def encode_dead_letter_reference(reference: DeadLetterReference, registry: Registry | None = None) -> bytes:
    """The DeadLetterReference record that stands for a dead letter too large to be published."""
    return frame(DEAD_LETTER_REFERENCE, writer_for(DEAD_LETTER_REFERENCE)(reference), registry)

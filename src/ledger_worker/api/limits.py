"""What texts and numbers over HTTP may be: the limits that the OpenAPI document says and that are enforced."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from ledger_worker.domain.events import ID_LENGTH_MAX, UNITS_MAX
from ledger_worker.domain.requests import ENTITLEMENT_LENGTH_MAX, KEY_LENGTH_MAX

__all__ = ["PATH_TYPES", "Cursor", "CustomerId", "EntitlementKey", "Holder", "Instant", "Key", "Note", "Text", "Units"]

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
CustomerId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_LENGTH_MAX,
        pattern=_NO_CONTROLS,
        description="The customer, as Commerce calls it.",
    ),
]
EntitlementKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ENTITLEMENT_LENGTH_MAX,
        pattern=_NO_CONTROLS,
        description="The key of an entitlement.",
    ),
]
Units = Annotated[int, Meta(ge=1, le=UNITS_MAX)]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=KEY_LENGTH_MAX,
        pattern=_NO_CONTROLS,
        description="Under it the caller's request is answered once: sent again it is answered as the first time.",
    ),
]
Holder = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_LENGTH_MAX,
        pattern=_NO_CONTROLS,
        description="Who holds a seat, by any name that can be printed.",
    ),
]
Note = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2000,
        pattern=_NO_CONTROLS,
        description="Why: kept for good, and shown to whoever asks.",
    ),
]
Text = Annotated[str, Meta(min_length=1, max_length=300, pattern=_NO_CONTROLS)]
Instant = Annotated[datetime, Meta(tz=True, description="An instant with its zone, such as 2026-03-01T00:00:00Z.")]
Cursor = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=_NO_CONTROLS, description="`next_cursor` of the page before.")
]
PATH_TYPES: Mapping[str, Any] = {"customer_id": CustomerId, "entitlement": EntitlementKey, "key_id": Text}
"""What the parts of paths may be, by their names in the table of routes."""

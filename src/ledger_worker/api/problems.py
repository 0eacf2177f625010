"""What goes wrong over HTTP, as RFC 9457 has it: a closed list of types, each with one status and one sentence.

A problem says what was sent, what was expected and what to do. It never says whether something exists that the caller
may not read, and nothing of how we are built.
"""

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

import msgspec

__all__ = ["TYPE_PREFIX", "Problem", "ProblemError", "ProblemType"]

TYPE_PREFIX = "https://entitlement-ledger.example/problems/"
"""What the `type` of every problem begins with; it names the problem and is no address to be asked."""


class ProblemType(Enum):
    """The closed list. The name in small letters, with hyphens, is the end of its `type`; it may grow."""

    INVALID_REQUEST = (HTTPStatus.BAD_REQUEST, "The request cannot be read as what this path expects.")
    NOT_AUTHENTICATED = (HTTPStatus.UNAUTHORIZED, "No key was sent, or none that is in force.")
    NOT_ALLOWED = (HTTPStatus.FORBIDDEN, "The key is in force and has none of the roles that may do this.")
    NOT_FOUND = (HTTPStatus.NOT_FOUND, "There is nothing of that name here.")
    METHOD_NOT_ALLOWED = (HTTPStatus.METHOD_NOT_ALLOWED, "The path is known, with other methods.")
    TOO_LARGE = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is larger than this path takes.")
    UNSUPPORTED_MEDIA_TYPE = (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is not said to be application/json.")
    REFUSED = (HTTPStatus.CONFLICT, "The ledger refuses it: `reason` says why, nothing was changed.")
    KEY_REUSED = (HTTPStatus.UNPROCESSABLE_ENTITY, "Something else was asked under this Idempotency-Key before.")
    IMPOSSIBLE_VALUE = (HTTPStatus.UNPROCESSABLE_ENTITY, "A value can be true in no world.")
    TOO_MANY_REQUESTS = (HTTPStatus.TOO_MANY_REQUESTS, "More was asked with this key than it may.")
    BEHIND = (HTTPStatus.SERVICE_UNAVAILABLE, "What the caller knows of the customer is not to be seen here yet.")
    UNAVAILABLE = (HTTPStatus.SERVICE_UNAVAILABLE, "It cannot be answered now: ask again later, under the same key.")
    OURS = (HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong that is our fault; nothing was changed.")

    @property
    def status(self) -> HTTPStatus:
        """The status of the response."""
        return self.value[0]

    @property
    def title(self) -> str:
        """The sentence that is the same for every problem of the type."""
        return self.value[1]

    @property
    def slug(self) -> str:
        """The end of its `type`."""
        return self.name.lower().replace("_", "-")


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem as it is sent: `application/problem+json`.

    `detail` says what it was this time. `field`, `sent` and `expected` are of a value that cannot be read; `reason` and
    `answer` of what the ledger refused.
    """

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    field: str | None = None
    sent: Any = None
    expected: str | None = None
    reason: str | None = None
    answer: Any = None


class ProblemError(Exception):
    """Ends a call with a problem. `members` are fields of `Problem`, `headers` go with the response."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})

    def problem(self, request_id: str) -> Problem:
        """As it is sent."""
        return Problem(
            type=TYPE_PREFIX + self.kind.slug,
            title=self.kind.title,
            status=self.kind.status.value,
            detail=self.detail,
            request_id=request_id,
            **self.members,
        )

"""The API over a ledger of the test's own, called without a network, by a key of each role."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from falcon import testing

from ledger_worker.api.app import make_app
from ledger_worker.api.calls import Services
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.operations import keys
from ledger_worker.operations.keys import Role
from tests.apply.ledger import Ledger
from tests.domain.telling import access, bought, catalogue, day, gives, offer, quota, seats, told

OFFERED = catalogue(
    quota(),
    access("video"),
    seats(),
    offer("pack", gives(10, lasts="forever"), gives(None, "video", lasts="forever"), gives(2, "desk", lasts="forever")),
)


class Answered(msgspec.Struct, frozen=True):
    """What came back: the status, the headers in small letters, and the JSON of the body."""

    status: int
    headers: Mapping[str, str]
    json: Any


class Api:
    """Calls the application with the keys of all roles."""

    def __init__(self, services: Services, secrets: Mapping[Role, str]) -> None:
        self.services = services
        self.secrets = secrets
        self._client = testing.TestClient(make_app(services))

    def __call__(
        self,
        method: str,
        path: str,
        *,
        role: Role | None = Role.ADMIN,
        key: str | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> Answered:
        """The call is made by a key of that role; None sends none."""
        sent = {} if role is None else {"Authorization": f"Bearer {self.secrets[role]}"}
        if key is not None:
            sent["Idempotency-Key"] = key
        if body is not None:
            sent["Content-Type"] = "application/json"
        result = self._client.simulate_request(
            method, path, json=json, body=body, headers={**sent, **(headers or {})}, params=params
        )
        found = {name.lower(): value for name, value in result.headers.items()}
        return Answered(result.status_code, found, msgspec.json.decode(result.content) if result.content else None)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """Ada has bought ten of api, video, and two desks."""
    made = Ledger(database_url, connections_max=12)
    made.publish(OFFERED)
    made.tell((told("b", day(1), bought()), day(1)))
    yield made
    made.close()


@pytest.fixture
def api(ledger: Ledger) -> Iterator[Api]:
    secrets = {}
    with ledger.engine.begin() as connection:
        for role in Role:
            made = keys.create(connection, f"the {role}", [role], actor="eve", note="for tests")
            secrets[role] = made.secret
    with Gatherer(ledger.engine, Metrics(CollectorRegistry())) as gatherer:
        yield Api(
            Services(engine=ledger.engine, gatherer=gatherer, catalogues=ledger.catalogues, answer_seconds=10), secrets
        )

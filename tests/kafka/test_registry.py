import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ledger_worker.errors import ConfigurationError, UnavailableError
from ledger_worker.kafka.registry import LookupResult, SchemaRegistry

SCHEMA = '{"type": "record", "name": "UsageRecorded", "fields": []}'
SUBJECT = "entitlements.UsageRecorded"


class StandIn(BaseHTTPRequestHandler):
    """The documented API of the registry, as far as it is used: one schema, under the id 7."""

    authorization: str | None = None

    def do_GET(self) -> None:
        StandIn.authorization = self.headers.get("Authorization")
        match self.path.partition("?")[0]:
            case "/schemas/ids/7":
                self._answer(200, {"schema": SCHEMA})
            case "/schemas/ids/500":
                self._answer(500, {"error_code": 50001, "message": "Error in the backend"})
            case "/schemas/ids/401":
                self._answer(401, {"error_code": 401, "message": "Unauthorized"})
            case _:
                self._answer(404, {"error_code": 40403, "message": "Schema not found"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.partition("?")[0] == f"/subjects/{SUBJECT}" and asked["schema"] == SCHEMA:
            self._answer(200, {"subject": SUBJECT, "id": 7, "version": 1, "schema": SCHEMA})
        else:
            self._answer(404, {"error_code": 40401, "message": "Subject not found"})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the parent's
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_schema_is_found_by_its_id_with_the_credentials_of_the_url(address: str) -> None:
    assert SchemaRegistry(f"http://key:secret@{address}").schema_by_id(7) == SCHEMA
    assert StandIn.authorization == "Basic a2V5OnNlY3JldA=="


def test_an_id_that_the_registry_does_not_have_says_something_about_the_record(address: str) -> None:
    with pytest.raises(LookupError, match="schema id 8: Schema not found"):
        SchemaRegistry(f"http://{address}").schema_by_id(8)


def test_a_registry_that_fails_says_nothing_about_the_record(address: str) -> None:
    with pytest.raises(UnavailableError, match="the schema registry answers 500"):
        SchemaRegistry(f"http://{address}").schema_by_id(500)


def test_a_registry_that_is_away_says_nothing_about_the_record() -> None:
    with pytest.raises(UnavailableError, match="the schema registry cannot be reached"):
        SchemaRegistry("http://127.0.0.1:1").schema_by_id(7)


def test_refused_credentials_are_a_matter_of_configuration(address: str) -> None:
    with pytest.raises(ConfigurationError, match="refuses these credentials"):
        SchemaRegistry(f"http://{address}").schema_by_id(401)


def test_the_id_of_a_registered_schema_is_found_by_its_text(address: str) -> None:
    assert SchemaRegistry(f"http://{address}").id_of_schema(SUBJECT, SCHEMA) == 7


def test_a_schema_that_is_not_registered_is_never_registered_by_us(address: str) -> None:
    with pytest.raises(ConfigurationError, match="register it first"):
        SchemaRegistry(f"http://{address}").id_of_schema("other", SCHEMA)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LEDGER_SCHEMA_REGISTRY_URL is no URL of HTTP"):
        SchemaRegistry("registry:8081")


def test_what_comes_of_each_question_is_counted(address: str) -> None:
    counted: list[LookupResult] = []
    registry = SchemaRegistry(f"http://{address}", counted.append)

    registry.schema_by_id(7)
    registry.id_of_schema(SUBJECT, SCHEMA)
    with pytest.raises(LookupError):
        registry.schema_by_id(8)
    with pytest.raises(ConfigurationError):
        registry.id_of_schema("other", SCHEMA)
    with pytest.raises(ConfigurationError):
        registry.schema_by_id(401)
    with pytest.raises(UnavailableError):
        registry.schema_by_id(500)

    assert counted == ["found", "found", "unknown", "unknown", "refused", "unavailable"]

"""Who is let in to what, and what whoever is not is told: every route by every role, and everything before a route."""

from datetime import timedelta

import pytest

from ledger_worker.api.app import BODY_BYTES_MAX
from ledger_worker.api.calls import Route, Services
from ledger_worker.api.problems import ProblemType
from ledger_worker.api.table import ROUTES
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.operations import keys
from ledger_worker.operations.keys import Role
from ledger_worker.store.database import engine
from tests.api.conftest import Api

OPENS: dict[Role, set[str]] = {
    Role.CHECKER: {
        "check", "check_all", "check_many", "consume", "hold", "confirm", "release", "assign_seat", "unassign_seat",
        "swap_seat", "seats",
    },
    Role.READER: {"check", "check_all", "check_many", "customer", "history", "explain", "seats"},
    Role.OPERATOR: {
        "check", "check_all", "check_many", "consume", "hold", "confirm", "release", "assign_seat", "unassign_seat",
        "swap_seat", "seats", "customer", "history", "explain",
    },
    Role.ADMIN: {route.name for route in ROUTES},
    Role.AUDITOR: {
        "check", "check_all", "check_many", "customer", "history", "explain", "seats", "list_keys", "audit",
    },
}  # fmt: skip
"""What each role may: written here by hand, for the table of routes to be compared with."""


def path_of(route: Route) -> str:
    return route.path.format(customer_id="ada", entitlement="api", key_id="0011223344556677")


@pytest.mark.parametrize("role", Role)
def test_a_key_opens_what_its_role_may_and_nothing_else(api: Api, role: Role) -> None:
    opened = set()
    for route in ROUTES:
        found = api(route.method, path_of(route), role=role, key="k", json={} if route.body else None)
        assert found.status < 500, route.name
        if found.status != 403:
            opened.add(route.name)

    assert opened == OPENS[role]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_without_a_key_nothing_opens(api: Api, route: Route) -> None:
    found = api(route.method, path_of(route), role=None, json={} if route.body else None)

    assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
    assert found.json["type"].endswith("/not-authenticated")


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer ledger_",
        "Bearer ledger_0011223344556677_nothing",
        "Bearer ledger_\udcff_x".encode("utf-8", "surrogatepass").decode("latin-1"),
        "Bearer " + "x" * 5_000,
    ],
)
def test_what_is_no_key_opens_nothing(api: Api, sent: str) -> None:
    assert api("GET", "/v1/keys", role=None, headers={"Authorization": sent}).status == 401


def test_a_key_of_another_secret_a_revoked_and_an_expired_one_open_nothing(api: Api) -> None:
    engine = api.services.engine
    with engine.begin() as connection:
        revoked = keys.create(connection, "revoked", [Role.ADMIN], actor="eve", note="n")
        keys.revoke(connection, revoked.key.key_id, actor="eve", note="n")
        over = keys.create(connection, "over", [Role.ADMIN], actor="eve", note="n", lasts=timedelta())
        good = keys.create(connection, "good", [Role.ADMIN], actor="eve", note="n")
    secrets = {
        "another": good.secret[:-1] + ("a" if good.secret[-1] != "a" else "b"),
        "revoked": revoked.secret,
        "over": over.secret,
        "good": good.secret,
    }

    found = {
        name: api("GET", "/v1/keys", role=None, headers={"Authorization": f"Bearer {secret}"}).status
        for name, secret in secrets.items()
    }

    assert found == {"another": 401, "revoked": 401, "over": 401, "good": 200}


def test_a_key_that_was_rotated_goes_on_for_its_overlap(api: Api) -> None:
    made = api("POST", "/v1/keys", json={"name": "shop", "roles": ["checker"], "note": "a shop"})
    key_id = made.json["key"]["key_id"]

    rotated = api("POST", f"/v1/keys/{key_id}/rotate", json={"note": "yearly", "overlap_hours": 1})
    gone = api("POST", f"/v1/keys/{rotated.json['key']['key_id']}/rotate", json={"note": "leaked", "overlap_hours": 0})

    opens = [
        api("GET", "/v1/customers/ada/access/api", role=None, headers={"Authorization": f"Bearer {one.json['secret']}"})
        for one in (made, rotated, gone)
    ]
    assert [made.status, rotated.status, gone.status] == [201, 201, 201]
    assert [one.status for one in opens] == [200, 401, 200]
    assert rotated.json["key"]["roles"] == ["checker"]


def test_the_log_says_who_changed_what_and_why_and_no_secret(api: Api) -> None:
    made = api(
        "POST",
        "/v1/keys",
        json={"name": "shop", "roles": ["checker"], "note": "a shop"},
        headers={"X-Request-Id": "r-1"},
    )
    key_id, secret = made.json["key"]["key_id"], made.json["secret"]
    api("POST", f"/v1/keys/{key_id}/revoke", json={"note": "gone"})

    found = api("GET", "/v1/audit", role=Role.AUDITOR, params={"subject": f"key/{key_id}"})

    said = [(one["actor"], one["action"], one["note"], one["request_id"]) for one in found.json["entries"]]
    assert [each[:3] for each in said] == [
        ("the admin", "key.revoke", "gone"),
        ("the admin", "key.create", "a shop"),
    ]
    assert said[1][3] == "r-1"
    assert found.json["entries"][0]["before"]["revoked_at"] is None
    assert found.json["entries"][0]["after"]["revoked_at"] is not None
    everything = api("GET", "/v1/audit", role=Role.AUDITOR), api("GET", "/v1/keys", role=Role.AUDITOR)
    assert not any(secret.rsplit("_", 1)[1] in str(each.json) for each in everything)


def test_pages_of_the_log_follow_each_other(api: Api) -> None:
    whole = api("GET", "/v1/audit").json["entries"]

    pages, cursor = [], None
    while True:
        page = api("GET", "/v1/audit", params={"limit": 2, **({} if cursor is None else {"cursor": cursor})}).json
        pages += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert pages == whole
    assert len(whole) == len(Role)


def test_what_no_path_is_and_what_a_path_has_not_is_a_problem(api: Api) -> None:
    nowhere, wrong = api("GET", "/v1/nowhere"), api("DELETE", "/v1/keys")

    assert (nowhere.status, nowhere.json["type"].rsplit("/", 1)[1]) == (404, "not-found")
    assert (wrong.status, wrong.json["type"].rsplit("/", 1)[1]) == (405, "method-not-allowed")
    assert {"GET", "POST"} <= set(wrong.headers["allow"].split(", "))


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        ({"Content-Type": "text/plain"}, b"{}", ProblemType.UNSUPPORTED_MEDIA_TYPE),
        ({}, b"{", ProblemType.INVALID_REQUEST),
        ({}, b"\xff", ProblemType.INVALID_REQUEST),
        ({}, b"[" * 100_000, ProblemType.INVALID_REQUEST),
        ({}, b" " * (BODY_BYTES_MAX + 1), ProblemType.TOO_LARGE),
    ],
    ids=["another type", "half", "no text", "very deep", "too large"],
)
def test_a_body_that_cannot_be_read_is_a_problem(
    api: Api, headers: dict[str, str], body: bytes, kind: ProblemType
) -> None:
    found = api("POST", "/v1/consume", key="k", body=body, headers=headers)

    assert (found.status, found.json["type"].rsplit("/", 1)[1]) == (kind.status, kind.slug)


def test_letters_that_no_text_can_hold_are_a_problem(api: Api) -> None:
    bodies = [
        {"customer_id": "a\x00b", "items": [{"entitlement": "api", "units": 1}]},
        {"customer_id": "ada", "items": [{"entitlement": "a\x00", "units": 1}]},
    ]
    found = [api("POST", "/v1/consume", key="k", json=body) for body in bodies]
    found.append(api("POST", "/v1/check", json={"checks": [{"customer_id": "\x00"}]}))
    found.append(api("POST", "/v1/consume", key="k", body=b'{"customer_id": "\\ud800", "items": []}'))
    found.append(api("POST", "/v1/keys", json={"name": "a", "roles": ["reader"], "note": "\x00"}))

    assert [one.status for one in found] == [400] * len(found)


def test_a_request_without_its_key_is_refused_before_anything_is_done(api: Api) -> None:
    asked = {"customer_id": "ada", "items": [{"entitlement": "api", "units": 1}]}

    found = [api("POST", "/v1/consume", json=asked), api("POST", "/v1/consume", key="x" * 91, json=asked)]

    assert [(one.status, one.json["field"]) for one in found] == [
        (400, "Idempotency-Key"),
        (400, "$.Idempotency-Key"),
    ]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/customers/a%00b", {}),
        ("/v1/customers/" + "a" * 201, {}),
        ("/v1/audit", {"subject": "\x00"}),
        ("/v1/customers/ada/access/api", {"unit": 1}),
        ("/v1/customers/ada/access/api", {"units": 0}),
        ("/v1/customers/ada/access/api", {"units": ["1", "2"]}),
        ("/v1/customers/ada", {"as_of": "2026-01-01T00:00:00"}),
        ("/v1/customers/ada", {"as_of": "0001-01-01T00:00:00+14:00"}),
        ("/v1/customers/ada/history", {"cursor": "nothing"}),
        ("/v1/audit", {"cursor": "-1"}),
    ],
)
def test_a_query_that_cannot_be_is_a_problem(api: Api, path: str, params: dict[str, object]) -> None:
    found = api("GET", path, params=params)

    assert (found.status, found.json["type"].rsplit("/", 1)[1]) == (400, "invalid-request")


def test_an_id_of_a_request_goes_with_the_answer_and_is_made_where_it_is_none(api: Api) -> None:
    given = api("GET", "/v1/keys", headers={"X-Request-Id": "r-1"})
    made = api("GET", "/v1/keys", headers={"X-Request-Id": "\t"})

    assert given.headers["x-request-id"] == "r-1"
    assert len(made.headers["x-request-id"]) == 32


def test_whether_it_is_alive_and_ready_is_said_to_everybody(api: Api) -> None:
    assert [api("GET", path, role=None).status for path in ("/livez", "/readyz")] == [200, 200]


def test_a_database_that_is_away_is_no_fault_of_the_caller(database_url: str) -> None:
    away = engine(database_url.rsplit("/", 1)[0] + "/nowhere")
    with Gatherer(away, Metrics(CollectorRegistry())) as gatherer:
        api = Api(
            Services(engine=away, gatherer=gatherer, catalogues=Catalogues(), answer_seconds=1), {Role.ADMIN: "x"}
        )
        found = [api("GET", path) for path in ("/readyz", "/v1/keys")]
    away.dispose()

    assert [one.status for one in found] == [503, 503]
    assert {one.json["type"].rsplit("/", 1)[1] for one in found} == {"unavailable"}
    assert all(one.headers["retry-after"] == "1" for one in found)

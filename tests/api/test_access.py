"""Checks and requests over HTTP: what the ledger says, and the problem that says why not."""

import pytest

from ledger_worker.operations.keys import Role
from tests.api.conftest import Api

ADA = "/v1/customers/ada/access"


def test_a_check_says_what_may_be_used_now(api: Api) -> None:
    found = api("GET", f"{ADA}/api", role=Role.CHECKER)

    assert found.status == 200
    said = {name: found.json[name] for name in ("allowed", "reason", "limit", "used", "remaining", "sequence")}
    assert said == {"allowed": True, "reason": "allowed", "limit": 10, "used": 0, "remaining": 10, "sequence": 3}
    assert found.headers["cache-control"] == "no-store"


def test_a_check_of_units_says_whether_so_many_could_be_used(api: Api) -> None:
    few, many = (api("GET", f"{ADA}/api", params={"units": units}).json for units in (10, 11))

    assert (few["allowed"], few["reason"]) == (True, "allowed")
    assert (many["allowed"], many["reason"]) == (False, "exhausted")


def test_whoever_is_not_known_is_answered_as_whoever_has_nothing(api: Api) -> None:
    nobody = api("GET", "/v1/customers/nobody/access/api")

    assert nobody.status == 200
    assert (nobody.json["allowed"], nobody.json["reason"], nobody.json["sequence"]) == (False, "not_entitled", 0)


def test_many_customers_are_checked_as_of_one_instant(api: Api) -> None:
    asked = {"checks": [{"customer_id": "ada"}, {"customer_id": "bob", "entitlements": ["video", "api"]}]}

    found = api("POST", "/v1/check", role=Role.READER, json=asked)

    pairs = [(one["customer_id"], one["entitlement"], one["allowed"]) for one in found.json["decisions"]]
    assert pairs == [
        ("ada", "api", True),
        ("ada", "desk", True),
        ("ada", "video", True),
        ("bob", "video", False),
        ("bob", "api", False),
    ]
    assert len({one["as_of"] for one in found.json["decisions"]}) == 1


def test_a_check_that_has_to_know_more_than_was_committed_is_behind(api: Api) -> None:
    known = api("GET", f"{ADA}/api", params={"min_sequence": 3})
    ahead = api("GET", f"{ADA}/api", params={"min_sequence": 4})

    assert known.status == 200
    assert (ahead.status, ahead.json["type"].rsplit("/", 1)[1]) == (503, "behind")
    assert ahead.headers["retry-after"] == "1"


def test_what_is_consumed_is_answered_once(api: Api) -> None:
    asked = {"customer_id": "ada", "items": [{"entitlement": "api", "units": 4}]}

    first, again = (api("POST", "/v1/consume", role=Role.CHECKER, key="k", json=asked) for _ in range(2))
    other = api("POST", "/v1/consume", role=Role.CHECKER, key="k", json={**asked, "up_to": True})

    assert (first.status, first.json["items"][0]["granted"]) == (200, 4)
    assert again.json == first.json
    assert (other.status, other.json["reason"]) == (422, "key_reused")
    assert api("GET", f"{ADA}/api").json["remaining"] == 6


def test_the_key_is_of_its_caller(api: Api) -> None:
    asked = {"customer_id": "ada", "items": [{"entitlement": "api", "units": 4}]}

    answers = [api("POST", "/v1/consume", role=role, key="k", json=asked) for role in (Role.CHECKER, Role.ADMIN)]

    assert [answer.status for answer in answers] == [200, 200]
    assert api("GET", f"{ADA}/api").json["remaining"] == 2


def test_what_is_refused_is_a_problem_with_the_answer(api: Api) -> None:
    asked = {"customer_id": "ada", "items": [{"entitlement": "api", "units": 11}]}

    refused = api("POST", "/v1/consume", key="k", json=asked)

    assert (refused.status, refused.headers["content-type"]) == (409, "application/problem+json")
    assert refused.json["type"].endswith("/refused")
    assert (refused.json["reason"], refused.json["answer"]["items"][0]["granted"]) == ("exhausted", 0)
    assert "11 of api were asked for and 10 are left" in refused.json["detail"]


def test_a_hold_is_confirmed_in_part_and_the_rest_comes_back(api: Api) -> None:
    held = api(
        "POST",
        "/v1/hold",
        key="h",
        json={"customer_id": "ada", "items": [{"entitlement": "api", "units": 6}], "seconds": 600},
    )
    ended = api(
        "POST",
        "/v1/confirm",
        key="c",
        json={"customer_id": "ada", "hold": "h", "items": [{"entitlement": "api", "units": 2}]},
    )
    again = api("POST", "/v1/release", key="r", json={"customer_id": "ada", "hold": "h"})

    assert (held.status, held.json["expires_at"] is not None) == (200, True)
    assert ended.status == 200
    assert (again.status, again.json["reason"]) == (409, "hold_ended")
    assert api("GET", f"{ADA}/api").json["remaining"] == 8


def test_seats_are_given_passed_on_and_taken_back(api: Api) -> None:
    body = {"customer_id": "ada", "entitlement": "desk", "holder": "ann"}

    statuses = [
        api("POST", "/v1/seats/assign", key="1", json=body).status,
        api("POST", "/v1/seats/assign", key="2", json=body).status,
        api("POST", "/v1/seats/swap", key="3", json={**body, "to": "ben"}).status,
    ]
    held = api("GET", "/v1/customers/ada/seats/desk")
    statuses.append(api("POST", "/v1/seats/unassign", key="4", json={**body, "holder": "ben"}).status)

    assert statuses == [200, 409, 200, 200]
    assert [one["name"] for one in held.json["holders"]] == ["ben"]


BAD: dict[str, tuple[str, str, dict[str, object], str]] = {
    "no units": ("POST", "/v1/consume", {"items": [{"entitlement": "api", "units": 0}]}, "$.items[0].units"),
    "no item": ("POST", "/v1/consume", {"items": []}, "$.items"),
    "a field that nobody knows": ("POST", "/v1/release", {"hold": "h", "unit": 1}, "$"),
    "a text for a number": (
        "POST",
        "/v1/hold",
        {"items": [{"entitlement": "api", "units": "3"}], "seconds": 1},
        "$.items[0].units",
    ),
    "a hold for ever": (
        "POST",
        "/v1/hold",
        {"items": [{"entitlement": "api", "units": 1}], "seconds": 9**9},
        "$.seconds",
    ),
    "nobody": ("POST", "/v1/release", {"customer_id": "", "hold": "h"}, "$.customer_id"),
}


@pytest.mark.parametrize(("method", "path", "body", "field"), BAD.values(), ids=BAD)
def test_a_value_that_cannot_be_is_named(api: Api, method: str, path: str, body: dict[str, object], field: str) -> None:
    found = api(method, path, key="k", json={"customer_id": "ada", **body})

    assert (found.status, found.json["type"].rsplit("/", 1)[1]) == (400, "invalid-request")
    assert found.json["field"] == field
    assert found.json["expected"]

"""The document: valid by an independent validator, and whatever answers conforms to what it says."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from ledger_worker.api.openapi import document
from ledger_worker.api.table import ROUTES
from tests.api.conftest import Api

ANSWERED = {
    "check": ("/v1/customers/ada/access/video", None),
    "check_all": ("/v1/customers/ada/access", None),
    "check_many": ("/v1/check", {"checks": [{"customer_id": "ada"}]}),
    "consume": ("/v1/consume", {"customer_id": "ada", "items": [{"entitlement": "api", "units": 1}]}),
    "customer": ("/v1/customers/ada", None),
    "history": ("/v1/customers/ada/history", None),
    "explain": ("/v1/customers/ada/explanation", None),
    "list_keys": ("/v1/keys", None),
    "audit": ("/v1/audit", None),
}


def test_the_document_is_valid() -> None:
    validate(document(ROUTES))


def test_the_document_is_served_to_everybody(api: Api) -> None:
    served = api("GET", "/openapi.json", role=None)

    assert served.status == 200
    assert {operation["operationId"] for path in served.json["paths"].values() for operation in path.values()} == {
        route.name for route in ROUTES
    }


@pytest.mark.parametrize("name", ANSWERED)
def test_an_answer_is_as_the_document_says(api: Api, name: str) -> None:
    path, body = ANSWERED[name]
    (route,) = (each for each in ROUTES if each.name == name)

    found = api(route.method, path, key="k", json=body)

    assert found.status == 200
    whole: dict[str, Any] = document(ROUTES)
    schema = whole["paths"][route.path][route.method.lower()]["responses"]["200"]["content"]["application/json"]
    errors = Draft202012Validator({**schema["schema"], "components": whole["components"]}).iter_errors(found.json)
    assert [error.message for error in errors] == []


def test_a_problem_is_as_the_document_says(api: Api) -> None:
    whole: dict[str, Any] = document(ROUTES)
    schema = {"$ref": "#/components/schemas/Problem", "components": whole["components"]}

    for found in (
        api("GET", "/v1/keys", role=None),
        api("GET", "/v1/customers/nobody"),
        api("POST", "/v1/consume", key="k", json={"customer_id": "ada", "items": []}),
    ):
        assert list(Draft202012Validator(schema).iter_errors(found.json)) == []

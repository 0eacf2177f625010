"""Keys by the command line: made, shown once, rotated, revoked."""

from datetime import UTC, datetime, timedelta

from tests.cli.conftest import Command

NOTE = ("--note", "for the shop", "--actor", "eve")


def test_a_key_is_shown_once_and_listed_without_its_secret(command: Command) -> None:
    made = command("keys", "create", "shop", "--role", "checker", "--role", "reader", "--days", 30, *NOTE)
    listed = command("keys", "list", "--json")

    secret = made.output.strip()
    (key,) = listed.json
    assert (made.status, secret.split("_")[:2]) == (0, ["ledger", key["key_id"]])
    assert (key["name"], key["roles"], key["last_used_at"]) == ("shop", ["checker", "reader"], None)
    ends = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < ends < timedelta(days=30)
    assert secret not in listed.output


def test_a_name_that_is_taken_is_refused_until_its_key_is_over(command: Command) -> None:
    made = command("keys", "create", "shop", "--role", "checker", *NOTE, "--json")
    taken = command("keys", "create", "shop", "--role", "checker", *NOTE)
    revoked = command("keys", "revoke", made.json["key"]["key_id"], *NOTE)
    twice = command("keys", "revoke", made.json["key"]["key_id"], *NOTE)
    again = command("keys", "create", "shop", "--role", "checker", *NOTE)

    assert (taken.status, revoked.status, twice.status, again.status) == (1, 0, 1, 0)
    assert "a key named shop is in force" in taken.errors
    assert "over already" in twice.errors


def test_a_rotated_key_has_the_same_roles_and_the_old_one_an_end(command: Command) -> None:
    made = command("keys", "create", "shop", "--role", "operator", *NOTE, "--json")
    rotated = command("keys", "rotate", made.json["key"]["key_id"], "--overlap-hours", 2, *NOTE, "--json")
    old, new = command("keys", "list", "--json").json

    assert rotated.json["key"]["roles"] == ["operator"]
    assert (old["key_id"], new["key_id"]) == (made.json["key"]["key_id"], rotated.json["key"]["key_id"])
    assert old["expires_at"] is not None
    assert new["expires_at"] is None


def test_what_is_no_role_no_key_and_no_name_is_said(command: Command) -> None:
    role = command("keys", "create", "shop", "--role", "king", *NOTE)
    key = command("keys", "rotate", "nothing", *NOTE)
    name = command("keys", "create", "a\tb", "--role", "checker", *NOTE)

    assert (role.status, key.status, name.status) == (2, 1, 1)
    assert "expected one of checker" in " ".join(role.errors.split())
    assert "key nothing is not known" in key.errors
    assert "that can be printed" in name.errors

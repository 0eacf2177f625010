"""The ledger's first tables."""

from importlib.resources import files

from alembic import op

revision = "0001"
down_revision = None

# An owner who is no superuser made the role and so may grant it (PostgreSQL 16 gives the maker no membership by
# itself). Where someone else made it, that one has to grant it, and `require_current` says so.
_OWNER_MAY_WORK_AS_THE_SERVICE = """
DO $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT ledger_app TO CURRENT_USER;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END $$
"""


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "0001_ledger.sql").read_text("utf-8")
    # Sent as it stands: many statements in one string, no parameters, so colons and percent signs mean nothing.
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
    op.get_bind().exec_driver_sql(_OWNER_MAY_WORK_AS_THE_SERVICE, execution_options={"no_parameters": True})

"""Requests and their first answers."""

from importlib.resources import files

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "0005_requests.sql").read_text("utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

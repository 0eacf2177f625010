"""Keys of the HTTP API and the audit log."""

from importlib.resources import files

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "0006_doors.sql").read_text("utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

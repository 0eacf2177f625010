"""How far back usage may lie."""

from importlib.resources import files

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    versions = files("ledger_worker.store").joinpath("migrations", "versions")
    sql = versions.joinpath("0003_settlement_window.sql").read_text("utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

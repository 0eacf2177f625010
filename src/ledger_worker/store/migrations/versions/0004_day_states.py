"""Day states, and the indexes that find usage since one."""

from importlib.resources import files

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "0004_day_states.sql").read_text("utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

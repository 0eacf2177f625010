"""Links between customers, parents of grants, over-allocation."""

from importlib.resources import files

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "0002_all_the_rules.sql").read_text("utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

"""${message}."""

from importlib.resources import files

from alembic import op

revision = "${up_revision}"
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    sql = files("ledger_worker.store").joinpath("migrations", "versions", "${up_revision}_NAME.sql").read_text("utf-8")
    # Sent as it stands: many statements in one string, no parameters, so colons and percent signs mean nothing.
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})

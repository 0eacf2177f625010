"""Runs the revisions on the connection that `store.database.migrate` opened and locked; loaded by Alembic, by path."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()

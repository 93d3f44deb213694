"""How Alembic runs a step: on the connection that `kmend.server.store.migrate` gives, each step in a transaction of its own."""

from __future__ import annotations

from alembic import context

from kmend.server.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()

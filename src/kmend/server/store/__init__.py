"""The server's database: tables, migrations, and transactions on SQLite and PostgreSQL.

It offers `Store` (`read`, `write`, `transact`), `open_store`, `migrate`, `initialise`, the errors, and the modules `tables`,
`news` and `settings`. Everything above it speaks SQLAlchemy Core on the connections that it gives; no other room opens a
database.
"""

from kmend.server.store.database import Store
from kmend.server.store.errors import StoreBusyError, StoreError
from kmend.server.store.migrate import initialise, migrate, open_store

__all__ = ["Store", "StoreBusyError", "StoreError", "initialise", "migrate", "open_store"]

"""The server's database: tables, migrations, and transactions on SQLite and PostgreSQL.

It offers `Store` (open, read, write), `tables`, and `migrate`. Everything above it speaks SQLAlchemy Core on the connections that
it gives; no other room opens a database.
"""

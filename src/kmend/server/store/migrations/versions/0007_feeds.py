"""Where feeds come from by themselves, and what CISA's assessments and table say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns that may be empty, which the version before does not ask for, and two tables."""
    for name in ("ssvc_exploitation", "ssvc_automatable", "ssvc_impact"):
        op.add_column("cve_signals", sa.Column(name, sa.Text(), nullable=True))
    op.create_table(
        "feed_sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("tried_at", sa.BigInteger(), nullable=True),
        sa.Column("checked_at", sa.BigInteger(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("modified", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feed_sources")),
    )
    op.create_table(
        "directive_rows",
        sa.Column("in_kev", sa.Boolean(), nullable=False),
        sa.Column("exposed", sa.Boolean(), nullable=False),
        sa.Column("automatable", sa.Boolean(), nullable=False),
        sa.Column("total", sa.Boolean(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=True),
        sa.Column("forensic", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("in_kev", "exposed", "automatable", "total", name=op.f("pk_directive_rows")),
    )

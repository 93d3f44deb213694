"""What verdicts rested on before, so that their history can be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_history"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of the past, and begin them with what is known now."""
    op.add_column("cves", sa.Column("published_at", sa.BigInteger(), nullable=True))
    op.add_column("cves", sa.Column("first_seen_at", sa.BigInteger(), nullable=True))
    op.add_column("distro_fixes", sa.Column("seen_at", sa.BigInteger(), nullable=True))
    op.add_column("distro_fixes", sa.Column("uploaded_at", sa.BigInteger(), nullable=True))
    op.add_column("kernel_facts", sa.Column("judged_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "host_periods",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ring", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("build_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("transition", sa.Integer(), nullable=False),
        sa.Column("refuses", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name=op.f("fk_host_periods_host")),
        sa.PrimaryKeyConstraint("host", "at", name=op.f("pk_host_periods")),
    )
    op.create_index(op.f("ix_host_periods_at_host"), "host_periods", ["at", "host"], unique=False)
    op.create_table(
        "applicability_changes",
        sa.Column("build_id", sa.Text(), nullable=False),
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("affected", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("presence", sa.Text(), nullable=False),
        sa.Column("objects", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("build_id", "cve", "until", name=op.f("pk_applicability_changes")),
    )
    op.create_index(op.f("ix_applicability_changes_until"), "applicability_changes", ["until"], unique=False)
    op.create_table(
        "ring_releases",
        sa.Column("ring", sa.Text(), nullable=False),
        sa.Column("build_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ring", "build_id", "level", name=op.f("pk_ring_releases")),
    )
    _begin()


def _begin() -> None:
    """Hosts stand as they did when their last report came; what was before is not known any more."""
    op.execute("UPDATE cves SET first_seen_at = changed_at")
    op.execute("UPDATE distro_fixes SET seen_at = (SELECT imported_at FROM feeds WHERE name = 'debian')")
    op.execute(
        """
        INSERT INTO host_periods (host, at, state, ring, boot_id, build_id, level, transition, refuses)
        SELECT hosts.id, coalesce((SELECT max(received_at) FROM reports WHERE reports.host = hosts.id), hosts.enrolled_at),
               'enrolled', hosts.ring, hosts.boot_id, hosts.build_id, hosts.level,
               CASE WHEN hosts.phase IN ('transitioning', 'loading') THEN hosts.trying ELSE 0 END, hosts.refuses
        FROM hosts WHERE hosts.build_id <> ''
        """
    )
    op.execute(
        """
        INSERT INTO host_periods (host, at, state, ring, boot_id, build_id, level, transition, refuses)
        SELECT host_periods.host,
               CASE WHEN hosts.last_seen > host_periods.at THEN hosts.last_seen ELSE host_periods.at + 1 END,
               hosts.state, host_periods.ring, host_periods.boot_id, host_periods.build_id, host_periods.level,
               host_periods.transition, host_periods.refuses
        FROM host_periods JOIN hosts ON hosts.id = host_periods.host WHERE hosts.state <> 'enrolled'
        """
    )
    op.execute(
        "INSERT INTO ring_releases (ring, build_id, level, since) SELECT ring, build_id, level, since FROM ring_levels"
    )

"""What is known of vulnerabilities."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of the feeds, and of what they mean for kernel builds."""
    op.create_table(
        "feeds",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("imported_at", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("aside_count", sa.Integer(), nullable=False),
        sa.Column("aside", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feeds")),
    )
    op.create_table(
        "cves",
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("cvss", sa.Text(), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("commits", sa.Text(), nullable=False),
        sa.Column("pairs", sa.Text(), nullable=False),
        sa.Column("rejected", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cve", name=op.f("pk_cves")),
    )
    op.create_table(
        "cve_signals",
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("kev_added", sa.BigInteger(), nullable=True),
        sa.Column("kev_due", sa.BigInteger(), nullable=True),
        sa.Column("forensic", sa.Boolean(), nullable=True),
        sa.Column("epss", sa.Float(), nullable=True),
        sa.Column("percentile", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("cve", name=op.f("pk_cve_signals")),
    )
    op.create_table(
        "distro_fixes",
        sa.Column("package", sa.Text(), nullable=False),
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("stable", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("package", "cve", name=op.f("pk_distro_fixes")),
    )
    op.create_index(op.f("ix_distro_fixes_cve"), "distro_fixes", ["cve"], unique=False)
    op.create_table(
        "kernel_facts",
        sa.Column("build_id", sa.Text(), nullable=False),
        sa.Column("package", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("build_id", name=op.f("pk_kernel_facts")),
    )
    op.create_table(
        "applicability",
        sa.Column("build_id", sa.Text(), nullable=False),
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("affected", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("presence", sa.Text(), nullable=False),
        sa.Column("objects", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("in_c", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("build_id", "cve", name=op.f("pk_applicability")),
    )
    op.create_index(op.f("ix_applicability_cve"), "applicability", ["cve"], unique=False)

"""Several changelogs of the distro's, and every upload that they tell of."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was read until now is of one changelog: that of the branch of its newest upload."""
    op.create_table(
        "distro_uploads",
        sa.Column("branch", sa.Text(), nullable=False),
        sa.Column("package", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("branch", "package", name=op.f("pk_distro_uploads")),
    )
    connection = op.get_bind()
    rows = [dict(row) for row in connection.execute(sa.text("SELECT * FROM distro_fixes")).mappings()]
    branch = _branch(max(rows, key=lambda row: row["place"])["package"]) if rows else ""
    # The primary key changes, which SQLite can do in a new table alone.
    op.drop_table("distro_fixes")
    fixes = op.create_table(
        "distro_fixes",
        sa.Column("branch", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("package", sa.Text(), nullable=False),
        sa.Column("cve", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("stable", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=True),
        sa.Column("uploaded_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("branch", "package", "cve", name=op.f("pk_distro_fixes")),
    )
    op.create_index(op.f("ix_distro_fixes_cve"), "distro_fixes", ["cve"], unique=False)
    uploads = sa.table("distro_uploads", sa.column("branch"), sa.column("package"), sa.column("place"))
    if rows:
        op.bulk_insert(fixes, [{**row, "branch": branch} for row in rows])
        # Uploads that mend no CVE come with the next import.
        places = {row["package"]: row["place"] for row in rows}
        op.bulk_insert(uploads, [{"branch": branch, "package": name, "place": place} for name, place in places.items()])


def _branch(package: str) -> str:
    """As `kmend.intel.uploads.branch_of` had it when this was written."""
    found = re.match(r"(?:\d+:)?(2\.6\.\d+|\d+\.\d+)", package)
    return found[1] if found is not None else ""

"""What hosts say of their modules, and which objects a level patches for a CVE."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and fill what the levels' manifests say."""
    op.create_table(
        "module_sets",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_module_sets")),
    )
    for name in ("modules", "loaded", "barred", "absent", "installed"):
        op.add_column("hosts", sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''")))
    for name in ("loaded", "barred", "absent"):
        op.add_column("host_periods", sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''")))
    for table in ("hosts", "host_periods"):
        op.add_column(table, sa.Column("unpatched", sa.Text(), nullable=False, server_default=sa.text("'[]'")))
        op.add_column(table, sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.false()))
    for table in ("applicability", "applicability_changes"):
        op.add_column(table, sa.Column("complete", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("level_cves", sa.Column("objects", sa.Text(), nullable=False, server_default=sa.text("'[]'")))
    _fill()


def _fill() -> None:
    connection = op.get_bind()
    levels = sa.table("levels", sa.column("build_id"), sa.column("level"), sa.column("manifest"))
    table = sa.table("level_cves", sa.column("build_id"), sa.column("level"), sa.column("cve"), sa.column("objects"))
    for key in connection.execute(sa.select(levels.c.build_id, levels.c.level)).all():
        where = (levels.c.build_id == key.build_id, levels.c.level == key.level)
        manifest = json.loads(connection.execute(sa.select(levels.c.manifest).where(*where)).scalar_one())
        for cve, objects in _objects(manifest).items():
            connection.execute(
                sa.update(table)
                .where(table.c.build_id == key.build_id, table.c.level == key.level, table.c.cve == cve)
                .values(objects=json.dumps(objects))
            )


def _objects(manifest: dict[str, list[dict[str, list[dict[str, str]]]]]) -> dict[str, list[str]]:
    """As `kmend.core.manifest.Manifest.objects_of` had it when this was written."""
    sources = {
        str(item["name"]): {function["source"] for function in item["functions"]}
        for item in manifest.get("objects", [])
    }
    files: dict[str, set[str]] = {}
    for fix in manifest.get("fixes", []):
        for cve in fix["cves"]:
            files.setdefault(str(cve), set()).update(str(name) for name in fix["files"])
    every = set().union(*sources.values()) if sources else set()
    return {
        cve: [name for name, found in sources.items() if found & names or not names <= every]
        for cve, names in files.items()
    }

"""Add notes, tags, star and trash of a run, and the columns that the list searches and sorts by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The values of existing runs are read from their about.json, at the keeper's next pass.
    for name in ("about", "notes", "words", "name_key"):
        op.add_column("runs", sa.Column(name, sa.String(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("runs", sa.Column("starred", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("runs", sa.Column("trashed", sa.Float()))
    op.add_column("runs", sa.Column("bytes", sa.Integer()))
    op.add_column("runs", sa.Column("bytes_at", sa.Float(), nullable=False, server_default="0"))
    op.create_table(
        "run_tags",
        sa.Column("run", sa.String(40), sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tag", sa.String(), primary_key=True),
    )
    op.create_index("ix_runs_list", "runs", ["owner", "trashed", "created"])
    op.create_index("ix_runs_named", "runs", ["owner", "trashed", "name_key"])
    op.create_index("ix_run_tags_tag", "run_tags", ["tag"])


def downgrade() -> None:
    op.drop_table("run_tags")
    for name in ("ix_runs_named", "ix_runs_list"):
        op.drop_index(name, "runs")
    for name in ("bytes_at", "bytes", "trashed", "starred", "tags", "name_key", "words", "notes", "about"):
        op.drop_column("runs", name)

"""Add an index to find an owner's newest about.json without reading their runs."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_runs_about", "runs", ["owner", "about"])


def downgrade() -> None:
    op.drop_index("ix_runs_about", "runs")

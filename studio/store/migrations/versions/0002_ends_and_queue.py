"""Add why a run ended, its position in the queue, and the number of its current worker."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("cause", sa.String(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("place", sa.Float(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("stalled_since", sa.Float()))


def downgrade() -> None:
    for name in ("stalled_since", "attempt", "place", "cause"):
        op.drop_column("runs", name)

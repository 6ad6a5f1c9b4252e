"""How many people an item needs is the item's: who brings decisions from a file does not know the server's settings."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of items that are there already nobody knows it, but for reported ones."""
    op.add_column("review_items", sa.Column("reviewers", sa.Integer))
    op.execute("UPDATE review_items SET reviewers = 1 WHERE why = 'reported'")


def downgrade() -> None:
    """Remove it again."""
    op.drop_column("review_items", "reviewers")

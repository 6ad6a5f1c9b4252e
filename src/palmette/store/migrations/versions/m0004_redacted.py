"""Whether a text went through a redaction: who brings labels from a file does not know the server's settings."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of texts that are there already nobody knows it."""
    op.add_column("review_texts", sa.Column("redacted", sa.Boolean))


def downgrade() -> None:
    """Remove it again."""
    op.drop_column("review_texts", "redacted")

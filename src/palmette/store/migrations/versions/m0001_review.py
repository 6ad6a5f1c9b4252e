"""The review queue: items, texts, decisions, leases, tasks, counts of automatic answers.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

from palmette.store.database import Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.String(200)
_DIGEST = sa.String(64)
_JSON = sa.JSON(none_as_null=True)


def _item(*, primary_key: bool = False) -> sa.Column[int]:
    of = sa.ForeignKey("review_items.id", ondelete="CASCADE")
    return sa.Column("item_id", sa.Integer, of, nullable=False, primary_key=primary_key)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "review_tasks",
        sa.Column("task", _NAME, primary_key=True),
        sa.Column("digest", _DIGEST, primary_key=True),
        sa.Column("declared", sa.JSON, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("seen", Moment, nullable=False),
    )
    op.create_table(
        "review_items",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", Moment, nullable=False, index=True),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("task", _NAME, nullable=False),
        sa.Column("digest", _DIGEST, nullable=False),
        sa.Column("words", sa.Integer, nullable=False),
        sa.Column("paired", sa.Boolean, nullable=False),
        sa.Column("prediction", _JSON),
        sa.Column("candidate", _JSON),
        sa.Column("confidence", sa.Float),
        sa.Column("why", sa.String(20), nullable=False),
        sa.Column("automatic", sa.Boolean, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Index("review_items_waiting", "open", "task", "id"),
        sa.Index("review_items_answer", "request_id", "number", "task"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "review_texts",
        _item(primary_key=True),
        sa.Column("example", sa.JSON, nullable=False),
        sa.Column("prediction", _JSON),
        sa.Column("candidate", _JSON),
        sa.Column("expires", Moment, nullable=False, index=True),
    )
    op.create_table(
        "review_decisions",
        sa.Column("id", sa.Integer, primary_key=True),
        _item(),
        sa.Column("reviewer", _NAME, nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("label", _JSON),
        sa.Column("changed", sa.Integer, nullable=False),
        sa.Column("units", sa.Integer, nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Index("review_decisions_item", "item_id", "reviewer", "id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "review_leases",
        _item(primary_key=True),
        sa.Column("reviewer", _NAME, primary_key=True),
        sa.Column("until", Moment, nullable=False),
    )
    op.create_table(
        "review_counts",
        sa.Column("task", _NAME, primary_key=True),
        sa.Column("digest", _DIGEST, primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("answers", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables, and all that is in them."""
    for table in ("counts", "leases", "decisions", "texts", "items", "tasks"):
        op.drop_table(f"review_{table}")

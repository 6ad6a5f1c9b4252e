"""Releases: versions, and a log that only grows."""

import sqlalchemy as sa
from alembic import op

from palmette.store.database import Moment

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ONLY_GROWS = "the log of releases only grows"


def upgrade() -> None:
    """Make the tables, and let the database itself refuse changes of the log."""
    op.create_table(
        "release_versions",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("tasks", sa.Text, nullable=False),
        sa.Column("precision", sa.Text, nullable=False),
        sa.Column("registered", Moment, nullable=False),
        sa.Column("registered_by", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
    )
    op.create_table(
        "release_log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("origin", sa.Text),
        sa.Column("target", sa.Text),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION release_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_ONLY_GROWS}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER release_log_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON release_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION release_log_only_grows()"
        )
        return
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER release_log_no_{event.lower()} BEFORE {event} ON release_log "
            f"BEGIN SELECT RAISE(ABORT, '{_ONLY_GROWS}'); END"
        )
    # INSERT OR REPLACE removes the old row without asking the triggers of DELETE.
    op.execute(
        "CREATE TRIGGER release_log_no_replace BEFORE INSERT ON release_log "
        "WHEN NEW.number <= (SELECT MAX(number) FROM release_log) "
        "BEGIN SELECT RAISE(ABORT, 'the log of releases only grows'); END"
    )


def downgrade() -> None:
    """There is none: a log that can be dropped is not append-only."""
    raise NotImplementedError("the log of releases cannot be taken back")

"""Alembic's entry: migrations run on the connection that `open_store` gives."""

from alembic import context

from palmette.store.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters tables by copying them
    transaction_per_migration=False,
)
context.run_migrations()

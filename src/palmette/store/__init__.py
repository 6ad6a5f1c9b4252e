"""What a server remembers: a database, SQLite by default, PostgreSQL for those who have one."""

from palmette.store.database import Base, open_store

__all__ = ["Base", "open_store"]

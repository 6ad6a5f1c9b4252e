"""A PostgreSQL of its own for tests: Debian's binaries, a temporary cluster on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_PATH = os.pathsep.join(
    [*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), os.environ["PATH"]]
)
INITDB, SERVER, CONTROL = (shutil.which(name, path=_PATH) for name in ("initdb", "postgres", "pg_ctl"))
_RUNUSER = shutil.which("runuser")


def missing() -> str | None:
    """Why no cluster can be started; None where one can."""
    if not (INITDB and SERVER and CONTROL):
        return "needs PostgreSQL (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and _RUNUSER is None:
        return "PostgreSQL does not run as root, and there is no runuser"
    return None


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a running cluster, to which a database's name can be added."""
    folder = Path(tempfile.mkdtemp(prefix="palmette-postgres-"))
    try:
        user = _owner(folder)
        data, log = folder / "data", folder / "log"
        _run(user, str(INITDB), "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        _run(user, str(CONTROL), "start", "-w", "-D", str(data), "-l", str(log), "-o", options)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/"
        finally:
            _run(user, str(CONTROL), "stop", "-m", "immediate", "-D", str(data))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(url: str, name: str) -> str:
    """The URL of a new, empty database of a cluster."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://") + "postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    engine.dispose()
    return url + name


def _owner(folder: Path) -> str | None:
    """Whom the server runs as, where this process is root's."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in known else "nobody"
    shutil.chown(folder, user)
    return user


def _run(user: str | None, *command: str) -> None:
    prefix = [] if user is None else [str(_RUNUSER), "-u", user, "--"]
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

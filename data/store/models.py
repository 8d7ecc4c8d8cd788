"""Base models by name, one of which may be the default."""

from __future__ import annotations

import time

import sqlalchemy as sa

from data.errors import UnknownModel
from data.records import Model
from data.state import check_name
from data.store.database import Database
from data.store.schema import models

_COLUMNS = (
    models.c.name,
    models.c.source,
    models.c.gguf,
    models.c.weights,
    models.c.sha256,
    models.c.architecture,
    models.c.meta,
)


class Models:
    """The base models of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, model: Model, default: bool = False) -> None:
        """Add a model, in place of the one of the same name.

        Raises:
            InvalidRequest: the name cannot name a folder.
        """
        check_name(model.name, "model name")
        known = models.c.name == model.name
        with self._database.write() as connection:
            was_default = bool(connection.execute(sa.select(models.c.is_default).where(known)).scalar())
            connection.execute(sa.delete(models).where(known))
            if default:
                connection.execute(sa.update(models).values(is_default=False))
            connection.execute(
                sa.insert(models).values(
                    name=model.name,
                    source=model.source,
                    gguf=model.gguf,
                    weights=model.weights,
                    sha256=model.sha256,
                    architecture=model.architecture,
                    meta=dict(model.meta),
                    is_default=default or was_default,
                    created_at=time.time(),
                )
            )

    def get(self, name: str) -> Model:
        """Return a model.

        Raises:
            UnknownModel: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_COLUMNS).where(models.c.name == name)).one_or_none()
        if row is None:
            raise UnknownModel("No such model.", got=name, hint="ragtune models list shows them.")
        return Model(*row)

    def default(self) -> Model | None:
        """Return the default model, None if none was chosen."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_COLUMNS).where(models.c.is_default == sa.true())).one_or_none()
        return None if row is None else Model(*row)

    def list(self) -> list[Model]:
        """Return every model, by name."""
        with self._database.read() as connection:
            return [Model(*row) for row in connection.execute(sa.select(*_COLUMNS).order_by(models.c.name))]

    def delete(self, name: str) -> None:
        """Forget a model.

        Raises:
            UnknownModel: there is none.
        """
        with self._database.write() as connection:
            if not connection.execute(sa.delete(models).where(models.c.name == name)).rowcount:
                raise UnknownModel("No such model.", got=name)

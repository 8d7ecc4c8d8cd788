"""Paths in the database after the state directory moved: what lay under the old root lies under the new one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from data.store.database import Database
from data.store.schema import evaluations, jobs, models


def relocate(database: Database, old: str, new: str) -> None:
    """Let every path under ``old`` (an absolute folder) point under ``new``: of models, reports and open jobs."""
    if old == new:
        return
    with database.write() as connection:
        for model in connection.execute(sa.select(models)).all():
            paths = {"source": model.source, "gguf": model.gguf, "weights": model.weights}
            moved = {column: _moved(path, old, new) for column, path in paths.items()}
            connection.execute(sa.update(models).where(models.c.name == model.name).values(moved))
        for row in connection.execute(sa.select(evaluations.c.key, evaluations.c.result)).all():
            result = _moved(row.result, old, new)
            connection.execute(sa.update(evaluations).where(evaluations.c.key == row.key).values(result=result))
        for job in connection.execute(sa.select(jobs.c.key, jobs.c.inputs)).all():
            inputs = _moved(job.inputs, old, new)
            connection.execute(sa.update(jobs).where(jobs.c.key == job.key).values(inputs=inputs))


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(f"{old}/") else value
    if isinstance(value, dict):
        return {name: _moved(item, old, new) for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    return value

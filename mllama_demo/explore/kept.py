"""Kept runs in SQL, for each owner alone, beside the conversations: listed, opened again, deleted. Knows no models and no web."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sql

from mllama_demo.errors import NotFound
from mllama_demo.explore.results import Run
from mllama_demo.store import Store

_metadata = sql.MetaData()

_pictures = sql.Table(
    "explore_pictures",
    _metadata,
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("data", sql.LargeBinary(2**31 - 1), nullable=False),
)

_runs = sql.Table(
    "explore_runs",
    _metadata,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("cells", sql.Integer, nullable=False),
    sql.Column("failed", sql.Integer, nullable=False),
    sql.Column("picture", sql.ForeignKey("explore_pictures.digest"), index=True),
    sql.Column("document", sql.LargeBinary(2**31 - 1), nullable=False),  # the run's JSON without its picture's bytes, zlib
    sql.Index("explore_runs_by_owner", "owner", "created"),
)


@dataclass(frozen=True)
class RunSummary:
    """One line in a list of runs. created: UTC. failed: cells without an answer because of an error."""

    id: str
    title: str
    model: str
    created: datetime
    cells: int
    failed: int


Summaries = list[RunSummary]  # the class below has a method of the name `list`


class KeptRuns:
    """Runs in the database of a Store; a picture is there once, however many runs show it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.transaction(write=True) as connection:
            _metadata.create_all(connection)

    def save(self, owner: str, run: Run) -> None:
        """Keeps the run as it now is, in place of what was kept under its id. Raises NotFound when that is somebody else's."""
        values = {
            "title": run.title,
            "model": run.model,
            "created": run.created.astimezone(timezone.utc).replace(tzinfo=None),
            "cells": len(run.cells),
            "failed": run.failed,
            "picture": None if run.image is None else run.image.digest,
            "document": zlib.compress(_without_picture(run).encode()),
        }
        with self._store.transaction(write=True) as connection:
            found = connection.execute(sql.select(_runs.c.owner, _runs.c.picture).where(_runs.c.id == run.id)).one_or_none()
            if found is not None and found.owner != owner:
                raise _not_found(run.id)
            if run.image is not None:
                known = sql.select(_pictures.c.digest).where(_pictures.c.digest == run.image.digest)
                if connection.execute(known).scalar() is None:
                    connection.execute(sql.insert(_pictures).values(digest=run.image.digest, data=run.image.data))
            if found is None:
                connection.execute(sql.insert(_runs).values(id=run.id, owner=owner, **values))
            else:
                connection.execute(sql.update(_runs).where(_runs.c.id == run.id).values(values))
                _clear_pictures(connection, found.picture)

    def load(self, owner: str, id: str) -> Run:
        """The run as it was saved. Raises NotFound for an unknown id and for one of another owner alike."""
        query = sql.select(_runs.c.document, _pictures.c.data).outerjoin_from(_runs, _pictures)
        with self._store.transaction() as connection:
            found = connection.execute(query.where(_runs.c.id == id, _runs.c.owner == owner)).one_or_none()
        if found is None:
            raise _not_found(id)
        run = Run.model_validate_json(zlib.decompress(found.document))
        if run.image is None:
            return run
        return run.model_copy(update={"image": run.image.model_copy(update={"data": bytes(found.data)})})

    def list(self, owner: str, limit: int = 200) -> Summaries:
        """The owner's runs, at most `limit`, the newest first."""
        c = _runs.c
        query = sql.select(c.id, c.title, c.model, c.created, c.cells, c.failed).where(c.owner == owner)
        with self._store.transaction() as connection:
            rows = connection.execute(query.order_by(c.created.desc(), c.id).limit(limit)).all()
        return [RunSummary(row.id, row.title, row.model, row.created.replace(tzinfo=timezone.utc), *row[4:]) for row in rows]

    def delete(self, owner: str, id: str) -> None:
        """Deletes the run, and its picture when no other run shows it. Raises NotFound."""
        with self._store.transaction(write=True) as connection:
            mine = sql.and_(_runs.c.id == id, _runs.c.owner == owner)
            found = connection.execute(sql.select(_runs.c.picture).where(mine)).one_or_none()
            if found is None:
                raise _not_found(id)
            connection.execute(sql.delete(_runs).where(mine))
            _clear_pictures(connection, found.picture)


def _clear_pictures(connection: Any, digest: str | None) -> None:
    unused = ~sql.exists().where(_runs.c.picture == _pictures.c.digest)
    connection.execute(sql.delete(_pictures).where(_pictures.c.digest == digest, unused))


def _without_picture(run: Run) -> str:
    image = None if run.image is None else run.image.model_copy(update={"data": b""})
    return run.model_copy(update={"image": image}).model_dump_json()


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no run {id:.40}.")

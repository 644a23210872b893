"""Kept runs in SQL, for each owner alone, beside the conversations: listed, opened again, deleted. Knows no models and no web."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from mllama_demo.errors import NotFound
from mllama_demo.explore.results import Run
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import explore_images as _images
from mllama_demo.storage.schema import explore_runs as _runs


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


class ExploreRuns:
    """Runs in the database of a ConversationStore; a picture is there once, however many runs show it.

    limit: how many runs of one owner are kept; the one that came first makes way for another.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self._database, self._limit = database, limit

    def save(self, owner: str, run: Run) -> None:
        """Keeps the run as it now is, in place of what was kept under its id. Raises NotFound when that is somebody else's."""
        values = _columns(run)
        with self._database.transaction(write=True) as connection:
            found = connection.execute(sql.select(_runs.c.owner, _runs.c.picture).where(_runs.c.id == run.id)).one_or_none()
            if found is not None and found.owner != owner:
                raise _not_found(run.id)
            if run.image is not None:
                known = sql.select(_images.c.digest).where(_images.c.digest == run.image.digest)
                if connection.execute(known).scalar() is None:
                    connection.execute(sql.insert(_images).values(digest=run.image.digest, data=run.image.data))
            if found is None:
                values |= {"id": run.id, "owner": owner, "kept": self._database.now()}
                connection.execute(sql.insert(_runs).values(values))
                self._make_room(connection, owner, run.id)
            else:
                connection.execute(sql.update(_runs).where(_runs.c.id == run.id).values(values))
                _clear_pictures(connection, found.picture)

    def change(self, owner: str, id: str, change: Callable[[Run], Run]) -> Run:
        """Keeps what `change` makes of the run as it is now, so that of two changes at the same time none is lost.

        change: leaves id and picture as they are; what it raises leaves the run as it was. Raises NotFound.
        """
        with self._database.transaction(write=True) as connection:
            run = change(_read(connection, owner, id, lock=True))
            connection.execute(sql.update(_runs).where(_runs.c.id == id).values(_columns(run)))
        return run

    def load(self, owner: str, id: str) -> Run:
        """The run as it was saved. Raises NotFound for an unknown id and for one of another owner alike."""
        with self._database.transaction() as connection:
            return _read(connection, owner, id)

    def list(self, owner: str) -> Summaries:
        """The owner's runs, the one that came last first."""
        c = _runs.c
        query = sql.select(c.id, c.title, c.model, c.created, c.cells, c.failed).where(c.owner == owner)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(c.kept.desc(), c.id).limit(self._limit)).all()
        return [RunSummary(row.id, row.title, row.model, row.created.replace(tzinfo=timezone.utc), *row[4:]) for row in rows]

    def delete(self, owner: str, id: str) -> None:
        """Deletes the run, and its picture when no other run shows it. Raises NotFound."""
        with self._database.transaction(write=True) as connection:
            mine = sql.and_(_runs.c.id == id, _runs.c.owner == owner)
            found = connection.execute(sql.select(_runs.c.picture).where(mine)).one_or_none()
            if found is None:
                raise _not_found(id)
            connection.execute(sql.delete(_runs).where(mine))
            _clear_pictures(connection, found.picture)

    def _make_room(self, connection: Connection, owner: str, newest: str) -> None:
        c = _runs.c
        others = sql.select(c.id, c.picture).where(c.owner == owner, c.id != newest).order_by(c.kept.desc(), c.id)
        for gone in connection.execute(others.offset(self._limit - 1)).all():
            connection.execute(sql.delete(_runs).where(c.id == gone.id))
            _clear_pictures(connection, gone.picture)


def _columns(run: Run) -> dict[str, object]:
    return {
        "title": run.title,
        "model": run.model,
        "created": run.created.astimezone(timezone.utc).replace(tzinfo=None),
        "cells": len(run.cells),
        "failed": run.failed_count,
        "picture": None if run.image is None else run.image.digest,
        "document": zlib.compress(_without_picture(run).encode()),
    }


def _read(connection: Connection, owner: str, id: str, lock: bool = False) -> Run:
    query = sql.select(_runs.c.document, _images.c.data).outerjoin_from(_runs, _images)
    query = query.where(_runs.c.id == id, _runs.c.owner == owner)
    found = connection.execute(query.with_for_update(of=_runs) if lock else query).one_or_none()
    if found is None:
        raise _not_found(id)
    run = Run.model_validate_json(zlib.decompress(found.document))
    if run.image is None:
        return run
    return run.model_copy(update={"image": run.image.model_copy(update={"data": bytes(found.data)})})


def _clear_pictures(connection: Connection, digest: str | None) -> None:
    unused = ~sql.exists().where(_runs.c.picture == _images.c.digest)
    connection.execute(sql.delete(_images).where(_images.c.digest == digest, unused))


def _without_picture(run: Run) -> str:
    image = None if run.image is None else run.image.model_copy(update={"data": b""})
    return run.model_copy(update={"image": image}).model_dump_json()


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no run {id:.40}.")

"""Explore runs in SQL: JSON documents and the columns that a list of runs shows; each owner sees only their own.

Knows nothing of what a document contains.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from mllama_demo.errors import NotFound
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import explore_images as _images
from mllama_demo.storage.schema import explore_runs as _runs


@dataclass(frozen=True)
class RunSummary:
    """One line in a list of runs.

    Attributes:
        created: UTC.
        failed: the number of cells whose generation failed.
        has_image: whether the run has an image.
        tour: whether the guided tour started the run.
    """

    id: str
    title: str
    model: str
    created: datetime
    cells: int
    failed: int
    has_image: bool = False
    tour: bool = False


@dataclass(frozen=True)
class RunImage:
    """An image file and its sha-256, hex."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class StoredRun:
    """A run: its summary, its JSON document, and its image, which the document does not contain."""

    summary: RunSummary
    document: bytes
    image: RunImage | None


Summaries = list[RunSummary]  # the class below has a method of the name `list`


class ExploreRuns:
    """The runs of all owners. Runs with the same image share one copy of it.

    Args:
        limit: how many runs each owner can store, and as many of the guided tour. A further run deletes the one of its kind that
            was stored first.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self.database, self._limit = database, limit

    def save(self, owner: str, run: StoredRun) -> None:
        """Stores the run or replaces the one of the same id. Raises NotFound when that belongs to another owner."""
        id, values = run.summary.id, _columns(run)
        with self.database.transaction(write=True) as connection:
            found = connection.execute(sql.select(_runs.c.owner, _runs.c.image).where(_runs.c.id == id)).one_or_none()
            if found is not None and found.owner != owner:
                raise _not_found(id)
            if run.image is not None:
                known = sql.select(_images.c.digest).where(_images.c.digest == run.image.digest)
                if connection.execute(known).scalar() is None:
                    connection.execute(sql.insert(_images).values(digest=run.image.digest, data=run.image.data))
            if found is None:
                values |= {"id": id, "owner": owner, "stored": self.database.now()}
                connection.execute(sql.insert(_runs).values(values))
                self._enforce_limit(connection, owner, run.summary)
            else:
                connection.execute(sql.update(_runs).where(_runs.c.id == id).values(values))
                _delete_unused_image(connection, found.image)

    def change(self, owner: str, id: str, change: Callable[[StoredRun], StoredRun]) -> None:
        """Replaces a run by what `change` makes of it, in one transaction, so that no concurrent change is lost.

        Args:
            change: must keep the id and the image. An exception that it raises leaves the run unchanged.
        Raises:
            NotFound: the owner has no such run.
        """
        with self.database.transaction(write=True) as connection:
            changed = change(_read(connection, owner, id, lock=True))
            connection.execute(sql.update(_runs).where(_runs.c.id == id).values(_columns(changed)))

    def load(self, owner: str, id: str) -> StoredRun:
        """Raises NotFound for an unknown id and for a run of another owner alike."""
        with self.database.transaction() as connection:
            return _read(connection, owner, id)

    def list(self, owner: str) -> Summaries:
        """The owner's runs, the last stored first."""
        query = sql.select(*_SUMMARY).where(_runs.c.owner == owner).order_by(_runs.c.stored.desc(), _runs.c.id)
        with self.database.transaction() as connection:
            return [_summary(row) for row in connection.execute(query.limit(2 * self._limit))]

    def image(self, owner: str, id: str) -> bytes | None:
        """The file of a run's image; None for a run without image. Raises NotFound."""
        query = sql.select(_images.c.data).select_from(_runs.outerjoin(_images)).where(_runs.c.id == id, _runs.c.owner == owner)
        with self.database.transaction() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _not_found(id)
        return None if row.data is None else bytes(row.data)

    def delete(self, owner: str, id: str) -> None:
        """Deletes a run, and its image when no other run has it. Raises NotFound."""
        with self.database.transaction(write=True) as connection:
            this = sql.and_(_runs.c.id == id, _runs.c.owner == owner)
            found = connection.execute(sql.select(_runs.c.image).where(this)).one_or_none()
            if found is None:
                raise _not_found(id)
            connection.execute(sql.delete(_runs).where(this))
            _delete_unused_image(connection, found.image)

    def _enforce_limit(self, connection: Connection, owner: str, newest: RunSummary) -> None:
        c = _runs.c
        same_kind = sql.and_(c.owner == owner, c.id != newest.id, c.tour == newest.tour)
        others = sql.select(c.id, c.image).where(same_kind).order_by(c.stored.desc(), c.id)
        for excess in connection.execute(others.offset(self._limit - 1)).all():
            connection.execute(sql.delete(_runs).where(c.id == excess.id))
            _delete_unused_image(connection, excess.image)


_SUMMARY = (_runs.c.id, _runs.c.title, _runs.c.model, _runs.c.created, _runs.c.cells, _runs.c.failed, _runs.c.image, _runs.c.tour)


def _summary(row: sql.Row) -> RunSummary:
    created = row.created.replace(tzinfo=timezone.utc)
    return RunSummary(row.id, row.title, row.model, created, row.cells, row.failed, row.image is not None, row.tour)


def _columns(run: StoredRun) -> dict[str, object]:
    summary = run.summary
    return {
        "title": summary.title,
        "model": summary.model,
        "created": summary.created.astimezone(timezone.utc).replace(tzinfo=None),
        "cells": summary.cells,
        "failed": summary.failed,
        "tour": summary.tour,
        "image": run.image and run.image.digest,
        "document": zlib.compress(run.document),
    }


def _read(connection: Connection, owner: str, id: str, lock: bool = False) -> StoredRun:
    query = sql.select(*_SUMMARY, _runs.c.document, _images.c.data).outerjoin_from(_runs, _images)
    query = query.where(_runs.c.id == id, _runs.c.owner == owner)
    row = connection.execute(query.with_for_update(of=_runs) if lock else query).one_or_none()
    if row is None:
        raise _not_found(id)
    image = None if row.image is None else RunImage(row.image, bytes(row.data))
    return StoredRun(_summary(row), zlib.decompress(row.document), image)


def _delete_unused_image(connection: Connection, digest: str | None) -> None:
    unused = ~sql.exists().where(_runs.c.image == _images.c.digest)
    connection.execute(sql.delete(_images).where(_images.c.digest == digest, unused))


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no run {id:.40} among your runs. Its owner can make a link to it, with Share.")

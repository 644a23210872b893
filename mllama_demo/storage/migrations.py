"""The steps from each earlier schema to the next, and the version that a database is at.

A new table needs no step: missing tables are created. A step for any other change goes to the end of MIGRATIONS.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sql
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateColumn

from mllama_demo.errors import ConfigError
from mllama_demo.storage.schema import conversations, explore_runs, messages, metadata, schema_version


def _version_2(connection: Connection) -> None:
    """Messages form a tree, and a deleted conversation can be restored. In version 1 each message followed the one before."""
    for column in (messages.c.parent, messages.c.chosen, conversations.c.deleted):
        _add_column(connection, column)
    position = messages.c.position
    connection.execute(sql.update(messages).where(position > 0).values(parent=position - 1))


def _version_3(connection: Connection) -> None:
    """Explore runs record when they were stored. The first databases of version 2 lack this column, later ones have it."""
    if _add_column(connection, explore_runs.c.stored):
        connection.execute(sql.update(explore_runs).values(stored=explore_runs.c.created))


def _version_4(connection: Connection) -> None:
    """The runs of the guided tour are apart from the runs that a visitor started."""
    _add_column(connection, explore_runs.c.tour)


Migration = Callable[[Connection], None]
MIGRATIONS: tuple[Migration, ...] = (_version_2, _version_3, _version_4)  # MIGRATIONS[0] leads from version 1 to version 2


def latest_version() -> int:
    """The schema version that this program reads and writes."""
    return len(MIGRATIONS) + 1


def migrate(connection: Connection, name: str) -> None:
    """Creates missing tables and brings those of an earlier version up to date.

    Args:
        name: the database's name for error messages.
    Raises:
        ConfigError: the database belongs to another program or was written by a newer version of this one.
    """
    existing = set(sql.inspect(connection).get_table_names())
    if schema_version.name not in existing and existing & set(metadata.tables):
        raise ConfigError(f"The database {name} belongs to another program; set database_url or data_dir to another place.")
    schema_version.create(connection, checkfirst=True)
    latest = latest_version()
    version = connection.execute(sql.select(sql.func.max(schema_version.c.version))).scalar() or latest
    if version > latest:
        raise ConfigError(
            f"The database {name} was written by a newer version of this program (schema {version}, this one knows "
            f"{latest}); update the program, or set database_url or data_dir to another place."
        )
    metadata.create_all(connection)
    for migration in MIGRATIONS[version - 1 :]:
        migration(connection)
    # The version is written at each start, so that a read-only database is detected here and not by the first visitor.
    connection.execute(sql.delete(schema_version))
    connection.execute(sql.insert(schema_version).values(version=latest))


def _add_column(connection: Connection, column: sql.Column) -> bool:
    """Adds the column to its table; False where it exists, as in a table that was just created."""
    table = column.table.name
    if any(existing["name"] == column.name for existing in sql.inspect(connection).get_columns(table)):
        return False
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.execute(sql.text(f"ALTER TABLE {table} ADD COLUMN {definition}"))
    return True

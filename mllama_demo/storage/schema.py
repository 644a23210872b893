"""The tables of store.py, and how those of an earlier version become today's."""

from __future__ import annotations

import sqlalchemy as sql
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateColumn

from mllama_demo.errors import ConfigError

SCHEMA_VERSION = 2

_metadata = sql.MetaData()

versions = sql.Table("schema_version", _metadata, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

images = sql.Table(
    "images",
    _metadata,
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("format", sql.String(16), nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),  # put_image renews it
    sql.Column("data", sql.LargeBinary(2**31 - 1), nullable=False),  # last: SQLite reads through it to get at what follows
)

conversations = sql.Table(
    "conversations",
    _metadata,
    sql.Column("id", sql.String(255), primary_key=True),
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("updated", sql.DateTime, nullable=False),
    sql.Column("deleted", sql.DateTime),  # since version 2
    sql.Index("conversations_by_owner", "owner", "updated"),
)

messages = sql.Table(
    "messages",
    _metadata,
    sql.Column("conversation_id", sql.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    sql.Column("position", sql.Integer, primary_key=True, autoincrement=False),  # tree.Node's number
    sql.Column("parent", sql.Integer),  # since version 2; before, it was the position before
    sql.Column("chosen", sql.Boolean, nullable=False, server_default=sql.true()),  # since version 2; before, all were
    sql.Column("role", sql.String(16), nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("image_digest", sql.ForeignKey("images.digest"), index=True),
    sql.Column("image_name", sql.Text),
    sql.Column("image_width", sql.Integer),
    sql.Column("image_height", sql.Integer),
    sql.Column("facts", sql.JSON, nullable=False),
)


def prepare_schema(connection: Connection, name: str) -> None:
    """Makes the tables, or brings those of an earlier version up to date."""
    existing = set(sql.inspect(connection).get_table_names())
    if versions.name not in existing and existing & set(_metadata.tables):
        raise ConfigError(f"The database {name} belongs to another program; set database_url or data_dir to another place.")
    _metadata.create_all(connection)
    version = connection.execute(sql.select(sql.func.max(versions.c.version))).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise ConfigError(
            f"The database {name} was written by a newer version of this program (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); update the program, or set database_url or data_dir to another place."
        )
    if version == 1:
        _let_messages_branch(connection)
    connection.execute(sql.delete(versions))  # written anew at each start, so that a read-only database shows now
    connection.execute(sql.insert(versions).values(version=SCHEMA_VERSION))


def _let_messages_branch(connection: Connection) -> None:
    """From version 1, where the messages of a conversation were one line, to version 2."""
    for column in (messages.c.parent, messages.c.chosen, conversations.c.deleted):
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(sql.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))
    position = messages.c.position
    connection.execute(sql.update(messages).where(position > 0).values(parent=position - 1))

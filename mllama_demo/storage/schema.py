"""Every table of the database, as this version of the program reads and writes it.

Knows nothing of earlier versions: `migrations` brings their tables up to date. All times are UTC, without a time zone. A column
with a `key` has another name in the database, which an earlier version chose.
"""

from __future__ import annotations

import sqlalchemy as sql

metadata = sql.MetaData()

_BLOB = sql.LargeBinary(2**31 - 1)
_ID = sql.String(255)
_DIGEST = sql.String(64)  # sha-256, hex

schema_version = sql.Table("schema_version", metadata, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

images = sql.Table(
    "images",
    metadata,
    sql.Column("digest", _DIGEST, primary_key=True),
    sql.Column("format", sql.String(16), nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),  # when the image was last put
    sql.Column("data", _BLOB, nullable=False),  # the last column: SQLite reads through a BLOB to reach the columns after it
)

conversations = sql.Table(
    "conversations",
    metadata,
    sql.Column("id", _ID, primary_key=True),
    sql.Column("owner", _ID, nullable=False),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("updated", sql.DateTime, nullable=False),
    sql.Column("deleted", sql.DateTime),  # when its owner deleted it; NULL otherwise
    sql.Index("conversations_by_owner", "owner", "updated"),
)

messages = sql.Table(
    "messages",
    metadata,
    sql.Column("conversation_id", sql.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    sql.Column("position", sql.Integer, primary_key=True, autoincrement=False),  # Node.number
    sql.Column("parent", sql.Integer),  # Node.parent
    sql.Column("chosen", sql.Boolean, nullable=False, server_default=sql.true()),  # Node.chosen
    sql.Column("role", sql.String(16), nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("image_digest", sql.ForeignKey("images.digest"), index=True),
    sql.Column("image_name", sql.Text),
    sql.Column("image_width", sql.Integer),
    sql.Column("image_height", sql.Integer),
    sql.Column("facts", sql.JSON, nullable=False, key="metadata"),
)

drafts = sql.Table(
    "drafts",
    metadata,
    sql.Column("conversation_id", _ID, primary_key=True),
    sql.Column("owner", _ID, nullable=False, index=True),
    sql.Column("messages", sql.Integer, nullable=False),  # how many messages the conversation showed when it was asked
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("facts", sql.JSON, nullable=False, key="metadata"),
    sql.Column("beat", sql.DateTime, nullable=False, key="refreshed"),
)

shares = sql.Table(
    "shares",
    metadata,
    sql.Column("digest", _DIGEST, primary_key=True),  # of the link's token
    sql.Column("conversation_id", _ID, nullable=False),
    sql.Column("owner", _ID, nullable=False),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("last", sql.Integer, nullable=False),  # Node.number of the last message shown
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("expires", sql.DateTime, nullable=False),
    sql.Column("revoked", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Index("shares_by_conversation", "owner", "conversation_id"),
)

run_shares = sql.Table(
    "run_shares",
    metadata,
    sql.Column("digest", _DIGEST, primary_key=True),  # of the link's token
    sql.Column("run_id", sql.String(32), nullable=False),
    sql.Column("owner", _ID, nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("expires", sql.DateTime, nullable=False),
    sql.Column("revoked", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Index("run_shares_by_run", "owner", "run_id"),
)

feedback = sql.Table(
    "feedback",
    metadata,
    sql.Column("conversation_id", _ID, primary_key=True),
    sql.Column("message", sql.Integer, primary_key=True, autoincrement=False),  # Node.number
    sql.Column("owner", _ID, nullable=False),
    sql.Column("good", sql.Boolean, nullable=False),
    sql.Column("note", sql.Text, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("sampling", sql.JSON, nullable=False),
    sql.Column("given", sql.DateTime, nullable=False, index=True),
)

sessions = sql.Table(
    "sessions",
    metadata,
    sql.Column("digest", _DIGEST, primary_key=True),  # of the session's token
    sql.Column("subject", sql.String(64), nullable=False),
    sql.Column("credential", _DIGEST, nullable=False),  # of the password hash or the key that opened the session
    sql.Column("expires", sql.DateTime, nullable=False),
)

explore_images = sql.Table(
    "explore_pictures",
    metadata,
    sql.Column("digest", _DIGEST, primary_key=True),
    sql.Column("data", _BLOB, nullable=False),
)

explore_runs = sql.Table(
    "explore_runs",
    metadata,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("owner", _ID, nullable=False),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("created", sql.DateTime, nullable=False),
    sql.Column("cells", sql.Integer, nullable=False),
    sql.Column("failed", sql.Integer, nullable=False),
    sql.Column("picture", sql.ForeignKey("explore_pictures.digest"), index=True, key="image"),
    sql.Column("tour", sql.Boolean, nullable=False, server_default=sql.false()),  # whether the guided tour started the run
    sql.Column("kept", sql.DateTime, key="stored"),  # when the run was stored; an imported run was created earlier, elsewhere
    sql.Column("document", _BLOB, nullable=False),  # the run as JSON without its image's bytes, compressed with zlib
    sql.Index("explore_runs_by_owner", "owner", "created"),
)

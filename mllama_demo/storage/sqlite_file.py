"""The file of a SQLite database while the program runs: somebody may delete, move or replace it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path


class SqliteFile:
    """Notices that the file is not the one that was opened, and restores a deleted file from a connection that is still open.

    Without that, the open connections would go on with a file that has no name, and everything would be lost at the next start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: tuple[int, int] | None = None
        # SQLite keeps what was written last beside the file, and would read it into another file of the same name.
        self._beside: dict[Path, tuple[int, int] | None] = {path.with_name(path.name + end): None for end in ("-wal", "-shm")}
        self._connection: sqlite3.Connection | None = None

    def remember(self) -> None:
        """Notes the file as it is now, and keeps it open."""
        self.close()
        self._connection = sqlite3.connect(self._path, check_same_thread=False)
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # SQLite opens the file at the first statement
        self._inode = _inode(self._path)
        self._beside = {path: _inode(path) for path in self._beside}

    def is_same(self) -> bool:
        """Whether the file with this name is still the one that was noted. Costs microseconds."""
        return self._inode is None or _inode(self._path) == self._inode

    def restore(self) -> str:
        """Writes a deleted file again, with everything in it. A file that stands in its place is left as it is.

        Every other connection to the lost file must be closed before. The lost file stays open until `remember` is called,
        because the new one may be no database, or the disk may be full.

        Returns:
            What happened, as a sentence for the log.

        Raises:
            OSError, sqlite3.Error: The file cannot be written.
        """
        if _inode(self._path) is not None:
            self._remove_beside()
            return f"The database {self._path} was replaced while the program ran; the program goes on with the new file."
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        assert self._connection is not None  # since `remember`
        copy = self._path.with_name(f"{self._path.name}.restored")
        copy.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(copy)) as target:
            self._connection.backup(target)
        self._remove_beside()
        copy.replace(self._path)
        return f"The database {self._path} was deleted while the program ran; it was written again with everything in it."

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remove_beside(self) -> None:
        """Removes what belongs to the lost file."""
        for path, inode in self._beside.items():
            if inode is not None and _inode(path) == inode:
                path.unlink(missing_ok=True)


def _inode(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

"""Locks between processes that the system takes back when a process dies."""

from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None


class FileLock:
    """An exclusive lock.

    Args:
        path: file that stands for it; made if need be, in a folder that exists.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Takes the lock; returns whether that worked. Does not wait."""
        file = self._path.open('ab')
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Gives it back."""
        self._file.close()
        self._file = None

    def acquire_and_release(self) -> bool:
        """Whether nobody holds it at this moment."""
        free = self.acquire()
        if free:
            self.release()
        return free

"""SHA-256 beside the reading: in a thread of its own, a few chunks behind."""

from __future__ import annotations

import hashlib
import threading
from queue import Full, Queue

__all__ = ["Hasher"]

_CHUNKS_BEHIND = 8


class Hasher:
    """Hashes chunks in order. With `beside`, in its own thread, which ends with `hexdigest` or `stop`."""

    def __init__(self, *, beside: bool) -> None:
        self._digest = hashlib.sha256()
        self._chunks: Queue[bytes | None] = Queue(_CHUNKS_BEHIND)
        self._stopped = False
        self._thread: threading.Thread | None = None
        if beside:
            self._thread = threading.Thread(target=self._run, name="specstar-hash", daemon=True)
            self._thread.start()

    def feed(self, chunk: bytes) -> None:
        """Take one more chunk; waits while too many are waiting."""
        if self._thread is None:
            self._digest.update(chunk)
        else:
            self._chunks.put(chunk)

    def hexdigest(self) -> str:
        """The hash of all chunks; blocks until it is done."""
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Give up, without waiting."""
        self._stopped = True
        try:
            self._chunks.put_nowait(None)
        except Full:
            return  # the thread looks at the flag after each chunk

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None and not self._stopped:
            self._digest.update(chunk)

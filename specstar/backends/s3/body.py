"""Large request bodies without copies: what the driver signs and the HTTP client sends are views of the same bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

__all__ = ["Body"]

_PIECE = 256 << 10


class Body:
    """Bytes as the driver's file (to sign them) and the HTTP client's asynchronous iterable (to send them).

    `progress` is called for each piece that was sent.

    `io.BytesIO` would be copied by the HTTP client before it is sent, and read in small pieces.
    """

    def __init__(
        self, data: bytes | memoryview, sha256: str | None = None, progress: Callable[[], None] | None = None
    ) -> None:
        self.sha256 = sha256
        """The hash of the bytes in hex, where it is known: the driver then signs that, and does not read them."""
        self._progress = progress
        self._view = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as the driver reads them to sign the request."""
        end = len(self._view) if size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece or b""  # type: ignore[return-value]  # a view is all that hashing needs

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as the driver does to measure and to begin again."""
        base = (0, self._position, len(self._view))[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        view = self._view
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
            # The HTTP client asks for more once the socket has taken this.
            if self._progress is not None:
                self._progress()

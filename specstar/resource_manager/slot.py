"""The storage and codec of one model in the present generation of connections; built anew when the home changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from specstar.config.encoding import Encoding
from specstar.resource_manager.codec import Codec
from specstar.resource_manager.factories import StorageFactory
from specstar.resource_manager.writer import Writer
from specstar.roles import ModelSpec, Storage
from specstar.runtime import Gate

__all__ = ["StorageSlot"]

T = TypeVar("T")


class _Built(Generic[T]):
    """What belongs to one generation."""

    __slots__ = ("codec", "generation", "writer")

    def __init__(self, generation: int, writer: Writer[T], codec: Codec[T]) -> None:
        self.generation = generation
        self.writer = writer
        self.codec = codec


class StorageSlot(Generic[T]):
    """Keeps the storage, the writer and the codec of one model, for the home loop and for portable calls elsewhere."""

    def __init__(
        self,
        gate: Gate,
        factory: Callable[[], StorageFactory],
        model: ModelSpec,
        codec: Callable[[Encoding], Codec[T]],
    ) -> None:
        self.gate = gate
        self.model = model
        self._make_codec = codec
        self._factory = factory
        self._built: _Built[T] | None = None

    @property
    def portable(self) -> bool:
        """True if there is a storage of the present generation, and it is portable."""
        built = self._built
        return built is not None and built.generation == self.gate.generation and built.writer.storage.portable

    def _current(self) -> _Built[T]:
        built = self._built
        return built if built is not None and built.generation == self.gate.generation else self._build()

    def _build(self) -> _Built[T]:
        home = self.gate.settle()
        generation = self.gate.generation
        factory = self._factory()
        writer: Writer[T] = Writer(home, factory.storage(self.gate, self.model), model=self.model.name)
        # Two threads may build at once: the later one stays, and the call that has the other is served all the same.
        built = self._built = _Built(generation, writer, self._make_codec(factory.encoding))
        return built

    @property
    def writer(self) -> Writer[T]:
        """The writer. Raises `NotConfiguredError` if there is no configuration yet."""
        return self._current().writer

    @property
    def storage(self) -> Storage:
        """The storage. Raises like `writer`."""
        return self._current().writer.storage

    @property
    def codec(self) -> Codec[T]:
        """The codec for the configured encoding. Raises like `writer`."""
        return self._current().codec

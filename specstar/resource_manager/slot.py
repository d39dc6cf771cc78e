"""The storage and codec of one model in the present generation of connections; built anew when the home changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from specstar.config.encoding import Encoding
from specstar.resource_manager.codec import Codec
from specstar.resource_manager.factories import StorageFactory
from specstar.resource_manager.writer import Writer
from specstar.roles import ModelSpec, Storage
from specstar.runtime import Gate, Home, PerGeneration

__all__ = ["StorageSlot"]

T = TypeVar("T")


class _Built(NamedTuple, Generic[T]):
    """What belongs to one generation."""

    writer: Writer[T]
    codec: Codec[T]


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
        self._now: PerGeneration[_Built[T]] = PerGeneration(gate, self._build)

    @property
    def portable(self) -> bool:
        """True if there is a storage of the present generation, and it is portable."""
        built = self._now.known()
        return built is not None and built.writer.storage.portable

    def _build(self, home: Home) -> _Built[T]:
        factory = self._factory()
        writer: Writer[T] = Writer(home, factory.storage(self.gate, self.model), model=self.model.name)
        return _Built(writer, self._make_codec(factory.encoding))

    @property
    def writer(self) -> Writer[T]:
        """The writer. Raises `NotConfiguredError` if there is no configuration yet."""
        return self._now.get().writer

    @property
    def storage(self) -> Storage:
        """The storage. Raises like `writer`."""
        return self._now.get().writer.storage

    @property
    def codec(self) -> Codec[T]:
        """The codec for the configured encoding. Raises like `writer`."""
        return self._now.get().codec

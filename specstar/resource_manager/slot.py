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


class StorageSlot(Generic[T]):
    """Keeps the storage, the writer and the codec of one model. Used on the home loop only."""

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
        self._codec: Codec[T] | None = None
        self._factory = factory
        self._generation = -1
        self._writer: Writer[T] | None = None

    @property
    def writer(self) -> Writer[T]:
        """The writer. Raises `NotConfiguredError` if there is no configuration yet."""
        if self._writer is not None and self._generation == self.gate.generation:
            return self._writer
        home = self.gate.settle()
        generation = self.gate.generation
        factory = self._factory()
        storage = factory.storage(self.gate, self.model)
        self._codec = self._make_codec(factory.encoding)
        self._writer = Writer(home, storage, model=self.model.name)
        self._generation = generation
        return self._writer

    @property
    def storage(self) -> Storage:
        """The storage. Raises like `writer`."""
        return self.writer.storage

    @property
    def codec(self) -> Codec[T]:
        """The codec for the configured encoding. Raises like `writer`."""
        if self._codec is None or self._generation != self.gate.generation:
            _ = self.writer
        assert self._codec is not None
        return self._codec

"""What stands on the home and connections of one generation of a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from specstar.runtime.gate import Gate
from specstar.runtime.home import Home

__all__ = ["PerGeneration"]

T = TypeVar("T")


class PerGeneration(Generic[T]):
    """Something that `build` makes on a home: when first used, and anew once the gate's generation is another.

    For any thread. Two may build at once: the later one's stays, and whoever has the other is served all the same.
    """

    def __init__(self, gate: Gate, build: Callable[[Home], T]) -> None:
        self._gate = gate
        self._build = build
        self._built: tuple[int, T] | None = None

    def get(self) -> T:
        """That of now. Raises what `Gate.settle` and `build` raise."""
        built = self._built
        if built is not None and built[0] == self._gate.generation:
            return built[1]
        while True:
            # First the generation: another thread may drop home and connections at any moment.
            generation = self._gate.generation
            home = self._gate.settle()
            if generation == self._gate.generation:
                break
        made = self._build(home)
        if generation == self._gate.generation:
            self._built = (generation, made)
        return made

    def known(self) -> T | None:
        """That of now, if it is built already."""
        built = self._built
        return built[1] if built is not None and built[0] == self._gate.generation else None

"""The models that one spec has declared: their names, their managers, and the storages that some have of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.checks import checked_text
from specstar.config.encoding import Encoding
from specstar.errors import InvalidInputError, NotConfiguredError
from specstar.query import IndexedField, Projector, fields_of
from specstar.resource_manager.codec import DEFAULT_MAX_PAYLOAD_BYTES, Codec
from specstar.resource_manager.factories import StorageFactory
from specstar.resource_manager.ids import checked_id
from specstar.resource_manager.manager import ResourceManager
from specstar.resource_manager.slot import StorageSlot
from specstar.roles import ModelSpec
from specstar.runtime import Gate
from specstar.suggestions import closest, did_you_mean

if TYPE_CHECKING:
    from specstar.bound import Bound
    from specstar.config import ResolvedBackend
    from specstar.config.structs import Role

__all__ = ["DeclaredModels"]

T = TypeVar("T")
_MAX_NAME_LENGTH = 512


class DeclaredModels:
    """The managers by the names of their models. `bound`: what those stand on that have no storage of their own."""

    def __init__(self, gate: Gate, bound: Bound) -> None:
        self.managers: dict[str, ResourceManager[Any]] = {}
        self.own_factories: dict[str, StorageFactory] = {}
        self._gate = gate
        self._bound = bound
        self._declared: dict[str, tuple[Any, ...]] = {}

    def declare(
        self,
        model: type[T],
        *,
        name: str | None = None,
        indexed_fields: Sequence[str | IndexedField] = (),
        storage_factory: StorageFactory | None = None,
        schema_version: str | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> ResourceManager[T]:
        """The manager of a model, the same for the same declaration. Arguments and errors: see `SpecStar.add_model`."""
        name = _checked_name(model, name)
        if schema_version is not None:
            checked_id(schema_version, field="schema_version")
        known = self.managers.get(name)
        fields = fields_of(model, indexed_fields)
        declared = (model, fields, schema_version, max_payload_bytes)
        if known is not None:
            if self._declared[name] == declared and storage_factory is None:
                return known
            message = f"a model named {name!r} is declared already, of another type or otherwise; give another name="
            raise InvalidInputError(message, field="name")

        def factory() -> StorageFactory:
            return self.own_factories.get(name) or self._bound.storage()

        def codec(encoding: Encoding) -> Codec[T]:
            return Codec(model, encoding, name=name, max_payload_bytes=max_payload_bytes)

        codec(Encoding.json)  # refuses a type that cannot be encoded now, not at the first call
        if storage_factory is not None:
            self._keep_factory(name, storage_factory)
        slot = StorageSlot(self._gate, factory, ModelSpec(name=name, indexed_fields=fields), codec)
        projector = Projector(model, fields)
        manager = ResourceManager(slot, projector, model=model, schema_version=schema_version)
        self.managers[name] = manager
        self._declared[name] = declared
        return manager

    def _keep_factory(self, name: str, factory: StorageFactory) -> None:
        if not isinstance(factory, StorageFactory):
            message = f"storage_factory= is a StorageFactory, not {type(factory).__name__}"
            raise InvalidInputError(message, field="storage_factory")
        self.own_factories[name] = factory
        if not factory.native:
            self._gate.require_asyncio()

    def find(self, model: Any) -> ResourceManager[Any]:
        """The manager of a model, by its type or name. Raises `NotConfiguredError`, `InvalidInputError` for one of several."""
        # Not every type has a name of its own, and a union is made anew wherever it is written.
        shown = model if isinstance(model, str) else getattr(model, "__name__", f"{model!s:.80}")
        if isinstance(model, str):
            manager = self.managers.get(model)
            if manager is not None:
                return manager
        else:
            found = [manager for manager in self.managers.values() if manager.model == model]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(sorted(manager.name for manager in found))
                raise InvalidInputError(f"{shown} is declared under several names ({names}): ask by name")
        hint = did_you_mean(closest(shown, self.managers))
        raise NotConfiguredError(f"no model {shown!r} is declared; declare it with spec.add_model(...){hint}")

    @property
    def native(self) -> bool:
        """True if the storages that models have of their own run on any event loop."""
        return all(factory.native for factory in self.own_factories.values())

    def common_factory(self) -> StorageFactory | None:
        """The storage factory of the configuration. None without one if models have storages of their own: all may.

        Raises `NotConfiguredError` if there is no configuration, and no such model.
        """
        return self._bound.storage_factory if self.own_factories else self._bound.storage()

    def own_bindings(self) -> Iterator[tuple[str, Role, ResolvedBackend]]:
        """The backends of the storages that models have of their own: model, role, backend."""
        for name, factory in self.own_factories.items():
            for role, bound in factory.bindings.items():
                if role != "blob":  # of no model
                    yield name, role, bound


def _checked_name(model: Any, name: str | None) -> str:
    if name is None:
        name = getattr(model, "__name__", None)
        if name is None:
            raise InvalidInputError(f"{model!s:.80} has no name of its own: give it a name=", field="name")
    if not 1 <= len(checked_text(name, field="name")) <= _MAX_NAME_LENGTH:
        raise InvalidInputError(f"a model name has 1 to {_MAX_NAME_LENGTH} characters", field="name")
    return name

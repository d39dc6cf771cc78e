"""The known backend types: the built-in ones, registered ones, and those of installed packages (`specstar.backends`)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from specstar.backends.provider import BackendProvider
from specstar.errors import ConfigError

__all__ = ["ENTRY_POINT_GROUP", "find_provider", "provider_types", "register_backend_provider"]

ENTRY_POINT_GROUP = "specstar.backends"

# Imported on first use: a config that binds disk needs no room but disk's.
_BUILT_IN = {
    "memory": ("specstar.backends.memory", "MemoryProvider"),
    "disk": ("specstar.backends.disk", "DiskProvider"),
    "postgres": ("specstar.backends.postgres", "PostgresProvider"),
    "s3": ("specstar.backends.s3", "S3Provider"),
    "simple": ("specstar.backends.simple", "SimpleProvider"),
    "rabbitmq": ("specstar.backends.rabbitmq", "RabbitMQProvider"),
}
_providers: dict[str, BackendProvider[Any, Any]] = {}


def register_backend_provider(provider: BackendProvider[Any, Any], *, replace: bool = False) -> None:
    """Make a backend type known under `provider.type`. Raises `ConfigError` if the name is taken and not to be replaced."""
    if not replace and provider.type in provider_types() and _providers.get(provider.type) is not provider:
        raise ConfigError(f"backend type {provider.type!r} is registered already; pass replace=True to replace it")
    _providers[provider.type] = provider


def provider_types() -> list[str]:
    """The names of all known backend types, sorted."""
    return sorted({*_BUILT_IN, *_providers, *_entry_points()})


def find_provider(type_name: str) -> BackendProvider[Any, Any] | None:
    """The provider of a backend type, or None. Raises `ConfigError` if an installed package's provider does not load."""
    provider = _providers.get(type_name)
    if provider is not None:
        return provider
    if type_name in _BUILT_IN:
        module, name = _BUILT_IN[type_name]
        provider = getattr(import_module(module), name)()
    elif type_name in (points := _entry_points()):
        try:
            loaded = points[type_name].load()
            provider = loaded() if isinstance(loaded, type) else loaded
        except Exception as error:
            raise ConfigError(f"the installed backend type {type_name!r} does not load: {error}") from error
    if provider is None:
        return None
    if not isinstance(provider, BackendProvider):
        raise ConfigError(f"the entry point of backend type {type_name!r} is no BackendProvider: {type(provider)!r}")
    _providers[type_name] = provider
    return provider


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}

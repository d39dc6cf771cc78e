"""What `configure` is given, checked and brought to the two factories on which everything stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from specstar.config import BackendConfig, resolve_config
from specstar.errors import ConfigError
from specstar.message_queue.factories import BoundMessageQueueFactory
from specstar.resource_manager.factories import BoundStorageFactory, StorageFactory

__all__ = ["Configuration", "configuration_of"]

logger: logging.Logger = logging.getLogger("specstar")


class Configuration(NamedTuple):
    """The factories of one `configure`."""

    storage_factory: StorageFactory
    message_queue_factory: BoundMessageQueueFactory | None


def configuration_of(
    backend: BackendConfig | Mapping[str, Any] | str | Path | None,
    storage_factory: StorageFactory | None,
    message_queue_factory: BoundMessageQueueFactory | None,
) -> Configuration:
    """Resolve and check; opens nothing. Logs what is allowed and unwise. Raises `ConfigError` with every mistake found."""
    for name, given, kind in (
        ("storage_factory", storage_factory, StorageFactory),
        ("message_queue_factory", message_queue_factory, BoundMessageQueueFactory),
    ):
        if given is not None and not isinstance(given, kind):
            hint = "; a mapping goes to backend=" if isinstance(given, Mapping) else ""
            raise ConfigError(f"{name}= is a {kind.__name__}, not {type(given).__name__}{hint}")
    if backend is not None and storage_factory is not None:
        raise ConfigError("give either backend= or storage_factory=, not both")
    if backend is not None:
        resolved = resolve_config(backend)
        for warning in resolved.warnings():
            logger.warning("%s", warning)
        storage_factory = BoundStorageFactory.of(resolved)
        if resolved.mq is not None:
            if message_queue_factory is not None:
                raise ConfigError("backend= binds mq already; leave message_queue_factory= out, or mq")
            message_queue_factory = BoundMessageQueueFactory(resolved.mq)
    if storage_factory is None:
        raise ConfigError("give backend= (a BackendConfig, a mapping or a JSON file) or storage_factory=")
    return Configuration(storage_factory, message_queue_factory)

"""From a resolved backend to what its stores are built with: the shared connection of the gate, and the home loop."""

from __future__ import annotations

from typing import Any

from specstar.backends.provider import BackendContext
from specstar.config import ResolvedBackend
from specstar.runtime import Gate

__all__ = ["context_of"]


def context_of(gate: Gate, bound: ResolvedBackend) -> BackendContext[Any, Any]:
    """The context for one role. Roles and models whose connection options are equal share one connection."""
    provider, options = bound.provider, bound.pinned
    key = (provider.type, provider.connection_key(options))
    connection = gate.connections.share(key, lambda: provider.connect(options), provider.type)
    return BackendContext(home=gate.settle(), options=options, connection=connection)

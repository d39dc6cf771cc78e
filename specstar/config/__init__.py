"""Configuration: the public structs, and resolving them into backends with typed options."""

from __future__ import annotations

from specstar.config.encoding import Encoding
from specstar.config.expansion import expand
from specstar.config.loading import ConfigSource
from specstar.config.redaction import redacted, redacted_options
from specstar.config.resolved import Origin, ResolvedBackend, ResolvedConfig
from specstar.config.resolving import resolve_config
from specstar.config.structs import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile

__all__ = [
    "BackendBinding",
    "BackendConfig",
    "BackendDefaults",
    "ConfigSource",
    "ConnectionProfile",
    "Encoding",
    "Origin",
    "ResolvedBackend",
    "ResolvedConfig",
    "expand",
    "redacted",
    "redacted_options",
    "resolve_config",
]

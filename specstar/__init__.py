"""specstar: typed, versioned resources, blobs and jobs over one configuration, for asyncio, trio and plain scripts.

Public names are loaded on first use, so that importing the package is cheap and pulls in no driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specstar.lazy import lazy_names

if TYPE_CHECKING:
    from specstar.backends.provider import BackendProvider
    from specstar.backends.registry import register_backend_provider
    from specstar.config import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile
    from specstar.config.encoding import Encoding
    from specstar.copying import CopyReport
    from specstar.core import SpecStar, spec
    from specstar.health import RoleReport
    from specstar.message_queue import DelayRetry, Job, JobMiddleware, JobStatus, NoRetry
    from specstar.metrics import BatchMetrics, Histogram, JobMetrics, Metrics, PoolMetrics
    from specstar.query import QB
    from specstar.query.limits import QueryLimits, query_limits, set_query_limits
    from specstar.resource_manager.resource import Resource
    from specstar.roles.blob import UploadSession
    from specstar.roles.records import BlobInfo, ResourceMeta, RevisionInfo, RevisionStatus

    __version__: str

_HOMES = {
    "BackendBinding": "specstar.config",
    "BackendConfig": "specstar.config",
    "BackendDefaults": "specstar.config",
    "BackendProvider": "specstar.backends.provider",
    "BatchMetrics": "specstar.metrics",
    "BlobInfo": "specstar.roles.records",
    "ConnectionProfile": "specstar.config",
    "CopyReport": "specstar.copying",
    "DelayRetry": "specstar.message_queue",
    "Encoding": "specstar.config.encoding",
    "Histogram": "specstar.metrics",
    "Job": "specstar.message_queue",
    "JobMetrics": "specstar.metrics",
    "JobMiddleware": "specstar.message_queue",
    "JobStatus": "specstar.message_queue",
    "Metrics": "specstar.metrics",
    "NoRetry": "specstar.message_queue",
    "QB": "specstar.query",
    "PoolMetrics": "specstar.metrics",
    "QueryLimits": "specstar.query.limits",
    "Resource": "specstar.resource_manager.resource",
    "ResourceMeta": "specstar.roles.records",
    "RevisionInfo": "specstar.roles.records",
    "RevisionStatus": "specstar.roles.records",
    "RoleReport": "specstar.health",
    "SpecStar": "specstar.core",
    "UploadSession": "specstar.roles.blob",
    "query_limits": "specstar.query.limits",
    "register_backend_provider": "specstar.backends.registry",
    "set_query_limits": "specstar.query.limits",
    "spec": "specstar.core",
}

__all__ = [
    "QB",
    "BackendBinding",
    "BackendConfig",
    "BackendDefaults",
    "BackendProvider",
    "BatchMetrics",
    "BlobInfo",
    "ConnectionProfile",
    "CopyReport",
    "DelayRetry",
    "Encoding",
    "Histogram",
    "Job",
    "JobMetrics",
    "JobMiddleware",
    "JobStatus",
    "Metrics",
    "NoRetry",
    "PoolMetrics",
    "QueryLimits",
    "Resource",
    "ResourceMeta",
    "RevisionInfo",
    "RevisionStatus",
    "RoleReport",
    "SpecStar",
    "UploadSession",
    "query_limits",
    "register_backend_provider",
    "set_query_limits",
    "spec",
]

if not TYPE_CHECKING:  # else checkers would take any misspelt name for one of type Any
    _find = lazy_names(__name__, _HOMES)

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("specstar")
        return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

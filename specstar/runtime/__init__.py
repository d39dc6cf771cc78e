"""What backends and managers stand on: the home loop and its gate, lazily opened connections, and the batcher."""

from __future__ import annotations

from specstar.runtime.batcher import Batcher
from specstar.runtime.cleanup import clean_up
from specstar.runtime.connections import Connection, Connections, LazyConnection, PoolUse, ServerInfo
from specstar.runtime.entry import Gated, Portable, gated, portable
from specstar.runtime.fanout import for_each
from specstar.runtime.gate import Gate
from specstar.runtime.generations import PerGeneration
from specstar.runtime.home import Home, Waiter
from specstar.runtime.interrupts import interrupted
from specstar.runtime.iterators import left_in_order
from specstar.runtime.joining import joined
from specstar.runtime.late import Elapsed, put_again
from specstar.runtime.new_file import NewFile
from specstar.runtime.outage import Outage
from specstar.runtime.portions import portions
from specstar.runtime.threads import run_in_thread
from specstar.runtime.trio_home import in_trio

__all__ = [
    "Batcher",
    "Connection",
    "Connections",
    "Elapsed",
    "Gate",
    "Gated",
    "Home",
    "LazyConnection",
    "NewFile",
    "Outage",
    "PerGeneration",
    "PoolUse",
    "Portable",
    "ServerInfo",
    "Waiter",
    "clean_up",
    "for_each",
    "gated",
    "in_trio",
    "interrupted",
    "joined",
    "left_in_order",
    "portable",
    "portions",
    "put_again",
    "run_in_thread",
]

"""Loopback ports for servers."""

import random
import socket
import threading
from pathlib import Path

LOOPBACK = "127.0.0.1"
_handed_out: set[int] = set()
_lock = threading.Lock()


def first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 49152


def free_port() -> int:
    """A port nobody listens on, below the ephemeral range.

    Outgoing connections take their local ports from that range: a server killed there could find its port taken.
    """
    top = first_ephemeral_port()
    candidates = range(10_000, top) if top > 12_000 else range(max(top, 49_152), 65_000)
    with _lock:
        for port in random.sample(candidates, 500):
            if port in _handed_out:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    continue
            _handed_out.add(port)
            return port
    raise OSError("no free loopback port found in 500 tries")

"""Which file system a folder lies on, as far as the system says (Linux)."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["network_file_system"]

_MOUNTS = Path("/proc/self/mountinfo")
# Space, tab, newline and backslash are written so.
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
    | {"glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)


def network_file_system(folder: Path) -> str | None:
    """The type of the network file system that the folder lies on; None for a local or an unknown one."""
    try:
        lines = _MOUNTS.read_bytes().split(b"\n")
        place = folder.resolve()
    except OSError:
        return None
    best, kind = -1, ""
    for line in lines:
        # Fields: proc_pid_mountinfo(5). The mount point is the fifth; the type follows the dash.
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), fields[4])))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), os.fsdecode(after.split(b" ", 1)[0])
    return kind if kind in _NETWORK else None

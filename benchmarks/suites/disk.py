"""Resources and blobs in files."""

from __future__ import annotations

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["disk"]

_BACKEND = {role: {"type": "disk", "options": {"rootdir": "{folder}"}} for role in ("meta", "resource", "blob")}
_BLOB_BYTES = 64 << 20
_SETTING = {"backend": _BACKEND, "blob_bytes": _BLOB_BYTES}
_BLOB_MEMORY_MIB = 64


def disk(scale: Scale) -> Suite:
    """Durable writes beside files by hand."""
    return Suite(
        name="disk",
        entries=(
            Entry(name="specstar", cls="resources:Resources", setting=_SETTING, ours=True),
            Entry(name="specstar blobs", cls="blobs:Blobs", setting=_SETTING, ours=True),
            Entry(name="files by hand", cls="files:HandwrittenFiles", setting=_SETTING),
            Entry(
                name="specstar 0.12.3",
                cls="old_specstar:OldSpecstar",
                environment="old",
                setting={"backend": _BACKEND, "rows": 1000, "search_rows": 1000},
            ),
        ),
        cases=(
            Case(
                operation="create",
                title="durable create",
                callers=64,
                entries=("specstar", "files by hand", "specstar 0.12.3"),
                targets=(Target(against="files by hand", at_least=10),),
            ),
            Case(
                operation="create",
                title="durable create",
                callers=1,
                entries=("specstar", "files by hand"),
            ),
            Case(
                operation="get",
                title="get",
                callers=64,
                entries=("specstar", "files by hand", "specstar 0.12.3"),
                targets=(Target(against="files by hand", at_least=1),),
            ),
            Case(
                operation="get",
                title="get",
                callers=1,
                entries=("specstar", "files by hand"),
            ),
            Case(
                operation="update",
                title="update, conditional",
                callers=64,
                entries=("specstar", "specstar 0.12.3"),
            ),
            Case(
                operation="search",
                title="indexed search over 10,000 (specstar 0.12.3: 1,000), limit 20",
                callers=64,
                entries=("specstar", "specstar 0.12.3"),
            ),
            Case(
                operation="blob_put",
                title="blob of 64 MiB, put",
                callers=1,
                unit="MiB/s",
                entries=("specstar blobs", "files by hand"),
                targets=(
                    Target(entry="specstar blobs", against="files by hand", at_least=1),
                    Target(entry="specstar blobs", at_most=_BLOB_MEMORY_MIB, of="memory"),
                ),
            ),
            Case(
                operation="blob_get",
                title="blob of 64 MiB, get",
                callers=1,
                unit="MiB/s",
                entries=("specstar blobs", "files by hand"),
                targets=(
                    Target(entry="specstar blobs", against="files by hand", at_least=1),
                    Target(entry="specstar blobs", at_most=_BLOB_MEMORY_MIB, of="memory"),
                ),
            ),
            Case(
                operation="blob_stream",
                title="blob of 64 MiB, get chunk by chunk",
                callers=1,
                unit="MiB/s",
                entries=("specstar blobs", "files by hand"),
                targets=(Target(entry="specstar blobs", at_most=_BLOB_MEMORY_MIB, of="memory"),),
            ),
            Case(
                operation="flight",
                title="10,000 calls in flight",
                fresh=True,
                callers=10_000,
                entries=("specstar",),
                unit="MiB",
                better="lower",
                targets=(Target(at_most=100),),
            ),
        ),
        notes=(
            (
                "Files by hand: one file a resource, with fsync of the file and of its folder in each call, in 32 threads; as "
                "durable as specstar's answer. Its get opens, reads and decodes one file in a thread."
            ),
            (
                "Blobs by hand: `shutil.copyfile` in a thread, then fsync of file and folder for a put. specstar also hashes the "
                "content (SHA-256), which is what the blob is stored under, and checks it (XXH3) on reading. A get ends in a "
                "file for both, without fsync; chunk by chunk, each of 1 MiB is written in a thread by both."
            ),
            "specstar 0.12.3 never calls fsync: its figures are for writes that a power loss may take back.",
        ),
    )

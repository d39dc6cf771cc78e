"""The SQLite engine under memory, disk and S3: one schema for meta rows, revisions and small payloads, and its searches.

`Database` is one connection (a file, memory, or bytes), used by one thread at a time; `ModelTables` the tables of one model
with their statements; `Lanes` carries the calls of many tasks to a database file in few thread jobs.
"""

from __future__ import annotations

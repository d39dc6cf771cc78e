"""Everything that reads foreign bytes, fuzzed along the code that it covers: typed errors, and nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.ledger import Figures, fault_count

ROOT = Path(__file__).resolve().parent.parent.parent

_CONFIG = {
    "version": 1,
    "defaults": {"encoding": "msgpack", "table_prefix": "${A}_", "presigned_url_expiry": 60},
    "connections": {
        "db": {"type": "postgres", "options": {"dsn": "postgresql://u:p@${HOST:-h}/d", "pool_max_size": 4}}
    },
    "meta": {"use": "db", "options": {"table_prefix": "x"}},
    "resource": {"type": "s3", "options": {"bucket": "b", "endpoint_url": "http://h", "access_key_id": "$$"}},
    "blob": {"type": "disk", "options": {"rootdir": "d"}},
    "mq": {"type": "rabbitmq", "options": {"amqp_url": "amqp://h"}},
}
_CONDITION = {
    "type": "and",
    "conditions": [
        {"type": "compare", "field": "age", "op": "ge", "value": 18},
        {"type": "or", "conditions": [{"type": "regex", "field": "name", "pattern": "a+b"}]},
        {"type": "not", "condition": {"type": "contains", "field": "tags", "value": "x"}},
        {"type": "in", "field": "address.city", "values": ["P", None, 3.5]},
    ],
}
_QUERY = {"condition": _CONDITION, "sort": ["-age", {"field": "name"}], "limit": 5, "offset": 2}
_RECORD = {"format": 1, "job_id": "job", "queue": "q", "payload": {"a": 1}, "created_time": "2024-01-01T00:00:00Z"}
SEEDS: dict[str, list[object]] = {
    "config": [_CONFIG],
    "config_file": [_CONFIG],
    "query": [_QUERY, _CONDITION],
    "condition": [_CONDITION],
    "record": [_RECORD],
    "message": [_RECORD],
    "row": [{"age": 3}],
}


# Short runs fuzz everything in one process: loading the code with its counters is the larger part of it.
@pytest.mark.parametrize("target", list(SEEDS) if fault_count(0) else ["anything"])
def test_foreign_bytes_give_typed_errors(target: str, tmp_path: Path, figures: Figures) -> None:
    figures.name = "foreign bytes (fuzzing): configuration, queries, jobs, messages, rows"
    runs = fault_count(3_000, share=500)
    seed = int(os.environ.get("SPECSTAR_FAULTS_SEED", random.randrange(1, 1 << 31)))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for place, name in enumerate(SEEDS):
        for number, tree in enumerate(SEEDS[name]):
            if target in (name, "anything"):
                first = bytes([place]) if target == "anything" else b""
                (corpus / f"seed-{name}-{number}").write_bytes(first + json.dumps(tree).encode())
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.tools.fuzzer", target, str(runs), str(seed), str(corpus)],
        cwd=ROOT,
        capture_output=True,
        timeout=1800,
        check=False,
    )
    shown = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{target}, seed {seed}: {shown[-6000:]}"
    figures.faults += runs

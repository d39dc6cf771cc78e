"""`specstar schema`: the JSON Schema of configuration files."""

from __future__ import annotations

__all__ = ["schema"]


def schema() -> int:
    """Print the JSON Schema of configuration files, with the options of every installed backend type.

    Name it in a file for completion in an editor: "$schema": "./specstar.schema.json".
    """
    from specstar.cli.output import print_json
    from specstar.config import BackendConfig

    print_json(BackendConfig.json_schema())
    return 0

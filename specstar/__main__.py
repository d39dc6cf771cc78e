"""`python -m specstar`."""

from __future__ import annotations

import sys

from specstar.cli import main

sys.exit(main())

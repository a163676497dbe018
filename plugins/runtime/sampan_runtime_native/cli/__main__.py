"""`python -m sampan_runtime_native.cli`."""

from __future__ import annotations

import sys

from sampan_runtime_native.cli import main

sys.exit(main())

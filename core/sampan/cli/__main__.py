"""`python -m sampan.cli`."""

from __future__ import annotations

import sys

from sampan.cli import main

sys.exit(main())

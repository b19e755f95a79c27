"""``python -m rbee_service`` is ``rbee-worker``."""

from __future__ import annotations

import sys

from rbee_programs import worker

sys.exit(worker())

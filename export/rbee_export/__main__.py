"""``python -m rbee_export`` is ``rbee-export``."""

import sys

from rbee_export.cli import main

sys.exit(main())

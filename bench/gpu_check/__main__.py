"""``python -m gpu_check``."""

import sys

from gpu_check.program import main

sys.exit(main())

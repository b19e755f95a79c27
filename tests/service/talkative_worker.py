"""The real worker with every logger at its most talkative."""

from __future__ import annotations

import logging
import sys
from typing import Any

from rbee_service import logs
from rbee_service.cli import main

configure = logs.configure_logging


def talk(style: Any) -> None:
    configure(style)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).disabled = False


logs.configure_logging = talk

if __name__ == "__main__":
    sys.exit(main())

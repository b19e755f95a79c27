from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from rbee_bench.bystanders import Bystanders

_SPIN = """
import time
input()
while time.process_time() < 0.5:
    pass
print("spent", flush=True)
input()
"""


def test_time_of_other_programs_is_seen_and_time_of_ours_is_not() -> None:
    command = [sys.executable, "-c", _SPIN]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as spinner:
        assert spinner.stdin is not None
        assert spinner.stdout is not None
        stranger, known = Bystanders(), Bystanders([spinner.pid])
        began = time.monotonic()
        print(file=spinner.stdin, flush=True)
        assert spinner.stdout.readline() == "spent\n"
        offered = (time.monotonic() - began) * (os.cpu_count() or 1)
        seen, excused = stranger.share(), known.share()
        spent = sum(psutil.Process(spinner.pid).cpu_times()[:2]) / offered
        spinner.stdin.close()
    # Whatever else runs on this machine is in both.
    assert 0.0 <= excused < seen <= 1.0
    assert seen >= 0.7 * spent

"""What a container's limits, and those of the process, leave of the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rbee_runtime.device.host import HostDevice
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.memory import available_bytes
from rbee_runtime.memory_limits import control_groups_left

UNLIMITED_FIRST = 9223372036854771712


def system(root: Path, cgroup: str, *mounts: str) -> Path:
    """Make a ``/proc`` that tells of the process's groups and of where they are mounted."""
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/vda rw\n" + "\n".join(mounts))
    return root


def second(group: Path, limit: int | str, used: int, reclaimable: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\nactive_file 7\n")


def first(group: Path, limit: int, used: int, reclaimable: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    stat = f"inactive_file 3\ntotal_inactive_file {reclaimable}\n"
    (group / "memory.stat").write_text(stat)


SECOND = "30 22 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate"
FIRST = "35 31 0:32 / /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory"


def test_a_container(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/\n", SECOND)
    second(root / "sys/fs/cgroup", 1000, 700, 100)
    assert control_groups_left(root) == 400
    second(root / "sys/fs/cgroup", 1000, 1200)
    assert control_groups_left(root) == 0
    second(root / "sys/fs/cgroup", "max", 700)
    assert control_groups_left(root) is None


def test_the_tightest_of_the_groups_around(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/worker.slice/one.service\n", SECOND)
    slice_ = root / "sys/fs/cgroup/worker.slice"
    second(slice_, 1000, 900)
    second(slice_ / "one.service", 800, 100)
    second(slice_ / "two.service", 800, 790)
    assert control_groups_left(root) == 100
    second(slice_, "max", 900)
    assert control_groups_left(root) == 700


def test_the_first_version(tmp_path: Path) -> None:
    root = system(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/\n0::/\n", FIRST)
    first(root / "sys/fs/cgroup/memory", UNLIMITED_FIRST, 5000)
    first(root / "sys/fs/cgroup/memory/job", 1000, 700, 100)
    assert control_groups_left(root) == 400


def test_a_container_that_is_told_of_the_host_s_paths(tmp_path: Path) -> None:
    mount = FIRST.replace(" / /sys", " /docker/ab12 /sys")
    root = system(tmp_path, "4:memory:/docker/ab12\n", mount)
    first(root / "sys/fs/cgroup/memory", 1000, 700)
    assert control_groups_left(root) == 300


@pytest.mark.parametrize("path", ["/elsewhere", "/../../elsewhere"])
def test_paths_that_are_not_shown(tmp_path: Path, path: str) -> None:
    root = system(tmp_path, f"0::{path}\n", SECOND)
    second(root / "sys/fs/cgroup", 1000, 700)
    assert control_groups_left(root) == 300


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "4:memory:/\n"])
def test_no_control_groups(tmp_path: Path, cgroup: str) -> None:
    assert control_groups_left(tmp_path) is None
    assert control_groups_left(system(tmp_path, cgroup, SECOND, FIRST)) is None


def test_the_process_s_own_limit() -> None:
    assert available_bytes() > 0
    script = (
        "import resource\n"
        "from rbee_runtime.memory import available_bytes\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({1 << 33}, {1 << 33}))\n"
        "print(available_bytes())\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 0 < int(answer.stdout) < 1 << 33


def test_what_is_not_to_be_had_says_what_to_do() -> None:
    rule = r"B are not to be had \(.*\): allow the cache less memory"
    for size in (1 << 60, 1 << 70):
        with pytest.raises(OutOfMemory, match=rule) as told:
            HostDevice().zeros((size,), "float32")
        assert "\n" not in str(told.value)

"""Ask pip-audit whether an environment holds a version with a known vulnerability.

usage: audit.py PIP_AUDIT SITE_PACKAGES

Its exit status does not tell a vulnerability from a service that is away, and a service that knows
none of the packages passes for a clean result; so this reads the report. Exit status 1 for a known
vulnerability; 0 otherwise, with one line that says what was looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SERVICES = ("pypi", "osv")
LIMIT_SECONDS = 120


def main() -> int:
    """Ask one service after the other until one answers."""
    program, packages = sys.argv[1:]
    for service in SERVICES:
        report, trouble = ask(program, packages, service)
        known = [entry for entry in report if "skip_reason" not in entry]
        if not known:
            print(f"audit: {service} could not be asked: {trouble or 'it knows no package here'}")
            continue
        found = [(entry, fault) for entry in known for fault in entry["vulns"]]
        for entry, fault in found:
            fixed = ", ".join(fault["fix_versions"]) or "no version yet"
            print(f"audit: {entry['name']} {entry['version']}: {fault['id']}, fixed in {fixed}")
        unknown = len(report) - len(known)
        print(
            f"audit: {len(found)} known vulnerabilities in {len(known)} packages, by {service}"
            + (f"; {unknown} packages it does not know" if unknown else "")
        )
        return 1 if found else 0
    print("audit: SKIPPED: no vulnerability service can be reached from here; nothing was checked")
    return 0


def ask(program: str, packages: str, service: str) -> tuple[list[dict[str, object]], str]:
    """Return the report, empty where there is none, and the last thing the program said."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.json"
        command = [program, "--path", packages, "--vulnerability-service", service]
        command += ["--format", "json", "--output", str(file), "--progress-spinner", "off"]
        try:
            ran = subprocess.run(
                [*command, "--timeout", "10"],
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [], f"no answer within {LIMIT_SECONDS} s"
        except OSError as error:
            return [], f"{program}: {error.strerror}"
        said = ran.stderr.strip().splitlines()
        if not file.is_file():
            return [], said[-1][:200] if said else "it said nothing"
        return json.loads(file.read_text(encoding="utf-8"))["dependencies"], ""


if __name__ == "__main__":
    sys.exit(main())

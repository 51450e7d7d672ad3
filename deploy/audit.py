"""Known weaknesses of the packages in deploy/constraints.txt: `python deploy/audit.py pip-audit`.

Exit code 1 if there are any. Says so, and ends well, where the advisory service cannot be asked or knows nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main(program: str) -> int:
    """Run pip-audit and say what it found; returns the exit code."""
    constraints = Path(__file__).with_name("constraints.txt")
    command = [program, "--no-deps", "--disable-pip", "--format=json", "--requirement", str(constraints)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = done.stderr.strip().splitlines() or ["no answer"]
        print(f"audit skipped: the advisory service cannot be asked ({why[-1][:200]})")
        return 0
    audited = [package for package in packages if "vulns" in package]
    weak = [package for package in audited if package["vulns"]]
    for package in weak:
        ids = ", ".join(weakness["id"] for weakness in package["vulns"])
        print(f"{package['name']} {package['version']}: {ids}")
    print(f"{len(audited)} of {len(packages)} packages audited, {len(weak)} with known weaknesses")
    if not audited:
        print("audit skipped: the advisory service knows nothing of these packages here")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

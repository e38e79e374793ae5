"""`make audit`: check the pinned packages of constraints.txt against the vulnerability data of PyPI, by pip-audit.

Exit codes: 0, no known vulnerabilities; 1, at least one, listed by package; 4, nothing was checked, for example
without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = "pip-audit==2.10.1"
FOUND, UNCHECKED = 1, 4


def main() -> int:
    """Install pip-audit into .audit, where it changes no package of the project, and run it."""
    folder = ROOT / ".audit"
    program = folder / "bin" / "pip-audit"
    if not program.exists():
        venv.create(folder, with_pip=True)
        install = [folder / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet", TOOL]
        installed = subprocess.run(install, capture_output=True, text=True, check=False)
        if installed.returncode:
            return unchecked(installed.stderr)
    words = [program, "--requirement", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    audit = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
    return report(audit.stdout, audit.stderr)


def report(result: str, errors: str) -> int:
    """Print what pip-audit found, in a line for each vulnerability; the exit code."""
    try:
        packages = json.loads(result)["dependencies"]
    except (ValueError, KeyError):
        return unchecked(errors)
    skipped = [package for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return unchecked(skipped[0]["skip_reason"] if skipped else errors)
    found = [(package, found) for package in packages for found in package.get("vulns", ())]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no release yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if skipped:
        print(f"not checked: {', '.join(package['name'] for package in skipped)}")
    print(f"{len(packages) - len(skipped)} packages checked, {len(found)} known vulnerabilities")
    return FOUND if found else 0


def unchecked(errors: str) -> int:
    """Say in one line that nothing was checked, with the last line of the cause; the exit code."""
    cause = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "no result")
    print(f"audit: nothing was checked, the data could not be read: {cause}", file=sys.stderr)
    return UNCHECKED


if __name__ == "__main__":
    sys.exit(main())

"""Match the patterns of an adapter's configuration against the names of a model's modules, as a program of its own.

Python's regular expressions can take years for a pattern of twenty characters, and cannot be interrupted. So
`adapter_checks` runs this file as a process, which can be ended. It reads {"patterns": [...], "names": [...]} from
stdin, and prints the error of a pattern that is invalid.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress


def main() -> None:
    """Match each pattern in each of the ways in which PEFT does."""
    request = json.load(sys.stdin)
    for pattern in request["patterns"]:
        try:
            whole = re.compile(pattern)
        except re.error as error:
            print(f"{pattern[:80]!r} is not a regular expression: {error}")
            return
        for name in request["names"]:
            whole.fullmatch(name)
        for form in (rf"(.*\.)?({pattern})$", rf".*\.{pattern}\.(\d+)\."):
            with suppress(re.error):  # PEFT uses these forms only for some keys
                part = re.compile(form)
                for name in request["names"]:
                    part.match(name)


if __name__ == "__main__":
    main()

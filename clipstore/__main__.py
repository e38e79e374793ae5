"""The program `clipstore`, also as `python -m clipstore`: signals are handled before the commands are imported."""

from __future__ import annotations

import sys

from clipstore.interrupts import Interrupted, interruptible


def main() -> None:
    """Run the command line."""
    with interruptible(until_exit=True):
        try:
            from clipstore.cli import main as commands

            commands(prog_name="clipstore")
        except Interrupted as error:
            sys.stderr.write(f"clipstore: {error}\n")
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

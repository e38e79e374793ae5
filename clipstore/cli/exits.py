"""Exit codes. An error is one line on stderr; this is the one place where errors become lines and codes.

0: all is well. 1: an error, or nothing could be done. 2: wrong usage. 3: finished, with failed items. 130, 143, 129 and
141: ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP or SIGPIPE.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from clipstore.cli.output import echo, print_error
from clipstore.errors import ClipstoreError, os_error_message
from clipstore.interrupts import Interrupted, received

_CLOSED_PIPE = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """Turn the errors of the block into a line on stderr and an exit code."""
    try:
        yield
    except BrokenPipeError:
        _end_silently()
    except click.ClickException as error:
        _fail_usage(error)
    except (click.exceptions.Exit, click.Abort, SystemExit):
        raise
    except BaseException as error:
        interruption = error if isinstance(error, Interrupted) else received()
        if interruption:
            _exit(str(interruption), interruption.exit_code)
        if isinstance(error, ClipstoreError):
            _exit(str(error), error.exit_code)
        if isinstance(error, OSError):
            _exit(os_error_message(error), 1)
        if isinstance(error, KeyboardInterrupt):  # from a thread or a notebook, without our handler
            _exit(str(Interrupted(signal.SIGINT)), 130)
        raise


def _exit(message: str, code: int) -> NoReturn:
    try:
        print_error(message)
        sys.stdout.flush()
    except BrokenPipeError:
        _end_silently(code)
    except OSError:
        pass  # stdout is what could not be written
    sys.exit(code)


def _fail_usage(error: click.ClickException) -> NoReturn:
    """Print click's message on wrong usage, which quotes arguments, with its control characters escaped."""
    text = io.StringIO()
    error.show(text)
    with suppress(BrokenPipeError):
        echo(text.getvalue(), err=True, nl=False)
    sys.exit(error.exit_code)


def _end_silently(code: int = _CLOSED_PIPE) -> NoReturn:
    """Exit after the reader of stdout or stderr has closed it; what is buffered is discarded."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream without a file
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)

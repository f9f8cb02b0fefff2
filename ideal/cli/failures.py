"""How a failed command ends: one short message, a traceback in a file, a documented exit code.

Every `ideal.errors.IdealError` names the value and the remedy; its lines go to stderr as they are and its class gives
the exit code. Anything else is a defect of IDEAL or of the machine: its traceback is kept in ``error.log`` of the run
directory (a temporary file when the command has none) and the message says where.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ideal.errors import IdealError

EXIT_CODES: dict[int, str] = {
    0: "success",
    1: "another failure; the message says which and where its traceback is",
    2: "wrong command line or configuration, or a file that it names",
    3: "descriptor or uncertainty cannot be evaluated",
    4: "no cell could be built around the atom",
    5: "a reference calculation cannot run or failed",
    6: "a model cannot be loaded or trained",
    7: "the dynamics left the physical range",
    8: "a Python package is missing; the message holds the pip install",
    9: "a file cannot be read or written (disk full, no permission)",
    130: "stopped by Ctrl-C; `ideal-run resume DIR` continues",
    143: "stopped by SIGTERM (a scheduler); `ideal-run resume DIR` continues",
}

_RUN_DIRECTORY = "ideal.cli.run_directory"
_RESUME = "ideal.cli.resume"


class TerminatedError(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt it passes through ``except Exception``."""


def use_run_directory(context: typer.Context, path: Path | None, resume: str = "") -> None:
    """Tell the error handling of the running command where ``error.log`` belongs and how to go on.

    Args:
        context: the command's context.
        path: the directory; it need not exist yet. None: the command has none.
        resume: the command that continues after an interruption; empty: there is nothing to continue.
    """
    context.meta[_RUN_DIRECTORY] = path
    context.meta[_RESUME] = resume


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM raises `TerminatedError`, so that workers are stopped and files closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ExampleCommand(TyperCommand):
    """A command whose help ends with its examples, printed as they are typed: never wrapped or reflowed."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        examples, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = examples
        _print_below(examples, formatter)


class FailureGroup(TyperGroup):
    """The group of all commands; it turns every exception into a message and an exit code."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        below, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = below
        _print_below(below, formatter)

    def invoke(self, ctx: Any) -> Any:
        return _guard(ctx, lambda: super(FailureGroup, self).invoke(ctx))


def _print_below(text: str | None, formatter: Any) -> None:
    if text:
        typer.echo(text)


def _guard(context: Any, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (KeyboardInterrupt, TerminatedError) as stop:
        code, word = (130, "Ctrl-C") if isinstance(stop, KeyboardInterrupt) else (143, "SIGTERM")
        resume = context.meta.get(_RESUME)
        say_error(f"by {word}" + (f"; nothing finished is lost, continue with: {resume}" if resume else ""), "stopped")
        raise typer.Exit(code) from None
    except IdealError as error:
        for line in str(error).splitlines():
            say_error(line)
        folder = context.meta.get(_RUN_DIRECTORY)
        if folder is not None and folder.is_dir():
            with suppress(OSError):
                _write_traceback(folder, error)
        _say_how_to_resume(context)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output left, as `| head` does
            _silence_stdout()
            raise typer.Exit(0) from None
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _unexpected(context, error)
        say_error(_explain_os_error(error))
        _say_how_to_resume(context)
        raise typer.Exit(9) from None
    except Exception as error:
        if _is_command_line_control(error):
            raise
        _unexpected(context, error)


def _say_how_to_resume(context: Any) -> None:
    if context.meta.get(_RESUME):
        typer.echo(f"After the remedy, continue with: {context.meta[_RESUME]}", err=True)


def _is_command_line_control(error: Exception) -> bool:
    """Whether typer (or click) itself raised this: a usage error, an exit, an abort."""
    return type(error).__module__.split(".")[0] in ("typer", "click")


def _unexpected(context: Any, error: Exception) -> NoReturn:
    folder = context.meta.get(_RUN_DIRECTORY)
    if folder is None or not folder.is_dir():
        folder = Path(tempfile.mkdtemp(prefix="ideal-run-"))
    where = _write_traceback(folder, error)
    text = " ".join(str(error).split()) or "no message"
    say_error(f"unexpected {type(error).__name__}: {text}; traceback in {where}")
    _say_how_to_resume(context)
    raise typer.Exit(1) from None


def _write_traceback(folder: Path, error: BaseException) -> Path:
    path = folder / "error.log"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}\n")
        file.writelines(traceback.format_exception(error))
    return path


def _explain_os_error(error: OSError) -> str:
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: the disk is full; free space and repeat the command"
    return f"{where}: {error.strerror}; correct the path or its permissions"


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_error(line: str, word: str = "error") -> None:
    """Print ``error: line`` to stderr, the word in red on a terminal."""
    typer.secho(f"{word}: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
    typer.echo(line, err=True)


def say_warning(line: str) -> None:
    """Print ``warning: line`` to stderr."""
    typer.secho("warning: ", fg=typer.colors.YELLOW, bold=True, err=True, nl=False)
    typer.echo(line, err=True)


def examples(*lines: str) -> str:
    """The text below a command's help: one example a line, a comment line starting with ``#``."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines), ""])


def exit_code_table() -> str:
    """The exit codes, one a line."""
    return "\n".join(["Exit codes:", *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()), ""])

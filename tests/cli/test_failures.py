"""Exceptions become messages and exit codes; the traceback goes to a file."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ideal.cli.failures import FailureGroup, sigterm_raises, use_run_directory
from ideal.errors import EmbeddingError, MissingPackageError


def command(error: BaseException | Callable[[], None], run_directory: Path | None = None) -> Result:
    """A program of one command that fails."""
    app = typer.Typer(cls=FailureGroup, pretty_exceptions_enable=False)

    @app.callback()
    def group() -> None:
        pass

    @app.command()
    def fail(context: typer.Context) -> None:
        if run_directory is not None:
            use_run_directory(context, run_directory, resume=f"ideal-run resume {run_directory}")
        if isinstance(error, BaseException):
            raise error
        error()

    return CliRunner().invoke(app, ["fail"])


def test_own_error(tmp_path: Path) -> None:
    result = command(EmbeddingError("atom 9 of 8; count from 0\nsecond line"), tmp_path)
    assert result.exit_code == 4
    assert result.stderr.splitlines() == [
        "error: atom 9 of 8; count from 0",
        "error: second line",
        f"After the remedy, continue with: ideal-run resume {tmp_path}",
    ]
    assert "EmbeddingError" in (tmp_path / "error.log").read_text()


def test_missing_package() -> None:
    result = command(MissingPackageError("tblite", "labelling", "pip install tblite"))
    assert result.exit_code == 8
    assert result.stderr == "error: labelling needs the package 'tblite': pip install tblite\n"


def test_unexpected_error_in_a_run_directory(tmp_path: Path) -> None:
    result = command(ZeroDivisionError("division by zero"), tmp_path)
    assert result.exit_code == 1
    assert (
        f"error: unexpected ZeroDivisionError: division by zero; traceback in {tmp_path / 'error.log'}" in result.stderr
    )
    assert "Traceback" not in result.output
    assert "Traceback" in (tmp_path / "error.log").read_text()


def test_unexpected_error_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(KeyError("lost"))
    assert result.exit_code == 1
    log = Path(result.stderr.rsplit("traceback in ", 1)[1].strip())
    assert "KeyError" in log.read_text()
    assert not list(tmp_path.iterdir()), "nothing is left in the working directory"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
    ],
)
def test_files(error: OSError, words: str) -> None:
    result = command(error)
    assert result.exit_code == 9
    assert words in result.stderr


def test_interruptions(tmp_path: Path) -> None:
    result = command(KeyboardInterrupt(), tmp_path)
    assert result.exit_code == 130
    assert f"continue with: ideal-run resume {tmp_path}" in result.stderr
    assert command(KeyboardInterrupt()).stderr == "stopped: by Ctrl-C\n"

    def terminated() -> None:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert command(terminated).exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_exits_pass_through() -> None:
    assert command(typer.Exit(0)).exit_code == 0
    assert command(typer.Exit(5)).exit_code == 5
    assert command(typer.BadParameter("no")).exit_code == 2

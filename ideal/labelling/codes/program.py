"""External programs: found, asked for their version, run in a folder of their own.

A command is split into words and run without a shell, in the process group of the worker, which a time limit kills
whole. Files that decide a result (pseudopotentials, basis sets) enter a label's key as hashes of their contents.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.codes.base import first_line

VERSION_SECONDS = 60.0


class Program:
    """A command of ``labelling.code.command``.

    Args:
        command: words as a shell would split them.
        name: the program as its users call it, such as ``pw.x``.
        install: how to get it, for the error when there is no such program.

    Raises:
        LabelError: the command is empty or cannot be split.
    """

    def __init__(self, command: str, name: str, install: str) -> None:
        self.command, self.name, self.install = command, name, install
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise LabelError(f"labelling.code.command {command!r}: {error}; balance the quotes") from error
        if not self.words:
            raise LabelError(f"labelling.code.command is empty: write the program, such as {name}")

    def version(self, pattern: str, arguments: Sequence[str] = ()) -> str:
        """What the first group of ``pattern`` finds in the output; the program runs in an empty folder.

        Raises:
            MissingPackageError: there is no such program.
            LabelError: it does not answer, or prints something else.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    [*self.words, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    timeout=VERSION_SECONDS,
                    check=False,
                )
            except FileNotFoundError as error:
                raise self._missing() from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise LabelError(
                    f"labelling.code.command {self.command!r} does not answer: {first_line(error)}"
                ) from error
        output = done.stdout.decode(errors="replace")
        found = re.search(pattern, output)
        if found is None:
            last = (output.strip().splitlines() or ["nothing"])[-1]
            raise LabelError(
                f"labelling.code.command {self.command!r} is not {self.name}, or cannot start: it printed {last!r}"
            )
        return found.group(1)

    def run(self, folder: Path, output: str, arguments: Sequence[str] = ()) -> int:
        """Run in ``folder``; standard output and error go to the file ``output`` there.

        Returns:
            The exit status (negative: killed by that signal).

        Raises:
            MissingPackageError: there is no such program.
            LabelError: it cannot be started.
        """
        try:
            with (folder / output).open("wb") as file:
                done = subprocess.run(
                    [*self.words, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    check=False,
                )
        except FileNotFoundError as error:
            raise self._missing() from error
        except PermissionError as error:
            raise LabelError(f"labelling.code.command {self.command!r} cannot be started: {error.strerror}") from error
        return done.returncode

    def _missing(self) -> MissingPackageError:
        return MissingPackageError(self.words[0], f"labelling with {self.name}", self.install, "program")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text_of(path: Path) -> str:
    """A text file's content; empty when there is no such file."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def last_words(text: str) -> str:
    """The last line of an output that holds more than decoration."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else "nothing was printed"


def element_file(folder: Path, names: dict[str, str], element: str, folder_key: str = "pseudo_dir") -> Path:
    """The pseudopotential of an element.

    Raises:
        LabelError: none is configured, or the file is missing; names the files that look like it.
    """
    found = sorted(path.name for path in folder.glob("*") if re.match(rf"{element}[._\-]", path.name, re.I))
    hint = f"files found for {element}: {', '.join(found) or 'none'}"
    name = names.get(element)
    if name is None:
        raise LabelError(
            f"no pseudopotential for {element!r}: add it to labelling.code.pseudopotentials (folder {folder}, {hint})"
        )
    path = folder / name
    if not path.is_file():
        raise LabelError(
            f"the pseudopotential {name!r} of {element!r} is not in labelling.code.{folder_key} {folder}; {hint}"
        )
    return path

"""A LAMMPS input script as the sampler drives it: its commands, and the runs that divide them into stages.

The sampler takes the steps of a `run` itself, a few at a time. Everything else goes to LAMMPS as it stands, with three
exceptions: files that are included are read here; with ``pair: ideal`` the script's pair style gives way to the learned
model; and where a run is taken up again from a restart file, commands that made the atoms or changed them once are left
out (`Template.resumed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ideal.errors import ConfigError

MODEL = "${model}"
"""What a `pair_coeff` says that is to follow the learned model."""

BOX = frozenset({"read_data", "read_restart", "create_box"})
"""Commands that make the box, and often the atoms."""

_ONCE = BOX | {
    *("create_atoms", "delete_atoms", "create_bonds", "delete_bonds", "displace_atoms", "replicate", "change_box"),
    *("velocity", "set", "minimize", "reset_timestep", "reset_atoms", "reset_atom_ids", "reset_mol_ids", "read_dump"),
    *("write_data", "write_restart", "write_dump", "write_coeff", "group"),
    # Known to the restart file, and fixed when the box is there.
    *("units", "dimension", "boundary", "atom_style", "atom_modify", "newton", "box"),
}
_PAIR = frozenset({"pair_style", "pair_coeff", "pair_modify", "kspace_style", "kspace_modify"})
_REFUSED = {
    "clear": "it would remove what the run is made of; start a trajectory of its own instead",
    "quit": "the sampler says when it is over; leave it out",
    "jump": "loops cannot be followed; write their commands out, or use several trajectories",
    "next": "loops cannot be followed; write their commands out, or use several trajectories",
    "label": "loops cannot be followed; write their commands out, or use several trajectories",
    "rerun": "there is nothing to move; use `ideal-run score` for frames that exist",
    **dict.fromkeys(("temper", "neb", "prd", "tad", "hyper"), "it moves several replicas; only `run` is driven"),
}
_DEPTH = 10


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        text: as LAMMPS gets it; lines are joined, comments gone.
        where: file and line, for messages.
    """

    text: str
    where: str = ""

    @property
    def words(self) -> list[str]:
        """The words between blanks."""
        return self.text.split()

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0]


@dataclass(frozen=True)
class Stage:
    """Commands, and the run behind them.

    Attributes:
        commands: in order.
        steps: number of steps as written, which may be a ``${variable}``; None where the script has no run.
        span: ``start N stop N`` of the run; empty: the run's own first and last step.
        where: file and line of the run.
    """

    commands: tuple[Command, ...]
    steps: str | None = None
    span: str = ""
    where: str = ""


@dataclass(frozen=True)
class Template:
    """A script.

    Attributes:
        path: its file.
        stages: at least one.
        after: commands behind the last run.

    Example:
        >>> template = Template.read("in.melt")  # units metal ... run 1000
        >>> template.stages[0].steps
        '1000'
    """

    path: Path
    stages: tuple[Stage, ...]
    after: tuple[Command, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Template:
        """Read a script with everything that it includes.

        Raises:
            ConfigError: a file cannot be read, holds a command that cannot be driven, or no box is made.
        """
        path = Path(path)
        stages: list[Stage] = []
        commands: list[Command] = []
        for command in _commands(path):
            if command.name in _REFUSED:
                raise ConfigError(f"{command.where}: `{command.name}`: {_REFUSED[command.name]}")
            if command.name == "run":
                stages.append(_stage(commands, command))
                commands = []
            else:
                commands.append(command)
        if not any(command.name in BOX for stage in stages for command in stage.commands) and not any(
            command.name in BOX for command in commands
        ):
            raise ConfigError(
                f"{path}: makes no box; add `read_data ${{data}}`, which reads the trajectory's structure"
            )
        if not stages:
            return cls(path, (Stage(tuple(commands)),))
        return cls(path, tuple(stages), tuple(commands))

    @property
    def commands(self) -> Iterator[Command]:
        """All of them, without the runs."""
        return self.commands_to(len(self.stages))

    def commands_to(self, stage: int) -> Iterator[Command]:
        """Those in front of a stage's run, without the runs before it."""
        for earlier in self.stages[: stage + 1]:
            yield from earlier.commands

    def setting(self, name: str, default: str = "") -> str:
        """The words behind the first command of that name."""
        for command in self.commands:
            if command.name == name:
                return " ".join(command.words[1:])
        return default

    @property
    def names_the_model(self) -> bool:
        """Whether a `pair_coeff` of its own follows the learned model."""
        return any(command.name == "pair_coeff" and MODEL in command.text for command in self.commands)

    # --- what LAMMPS gets ---------------------------------------------------------------------------------------------

    def started(self, stage: int, boxed: Sequence[str], own_pair: bool) -> list[Command]:
        """The commands of a stage of a run that begins here.

        Args:
            stage: its number.
            boxed: put behind the command that makes the box, where the stage has it.
            own_pair: keep the script's pair style.
        """
        commands = []
        made = stage > 0 and any(command.name in BOX for command in self.commands_to(stage - 1))
        for command in self.stages[stage].commands:
            if own_pair or command.name not in _PAIR:
                commands.append(command)
            if command.name in BOX and not made:
                made = True
                commands += [Command(text) for text in boxed]
        return commands

    def resumed(
        self, stage: int, restart: str, first: Sequence[str], boxed: Sequence[str], own_pair: bool
    ) -> list[Command]:
        """The commands that take a stage up again from a restart file: what was made once is not made again.

        Args:
            stage: number of the stage that is amid its run.
            restart: path of the restart file.
            first: put in front of everything.
            boxed: put behind the command that reads the restart file.
            own_pair: keep the script's pair style.
        """
        commands = [Command(text) for text in first]
        made = False
        for command in self.commands_to(stage):
            if command.name in BOX and not made:
                made = True
                commands.append(Command(f"read_restart {restart}", command.where))
                commands += [Command(text) for text in boxed]
            elif command.name == "dump":
                commands += [command, Command(f"dump_modify {command.words[1]} append yes", command.where)]
            elif not _once(command) and (own_pair or command.name not in _PAIR):
                commands.append(command)
        return commands

    def reload(self) -> list[str]:
        """The script's own commands that follow the learned model."""
        return [command.text for command in self.commands if command.name == "pair_coeff" and MODEL in command.text]


def _once(command: Command) -> bool:
    """Whether a restart file holds what it did; dynamic groups are not in there."""
    return command.name in _ONCE and not (command.name == "group" and "dynamic" in command.words[2:3])


def _stage(commands: Sequence[Command], run: Command) -> Stage:
    words = run.words[1:]
    if not words:
        raise ConfigError(f"{run.where}: `run` needs its number of steps")
    span = []
    for position, word in enumerate(words[1:], start=1):
        if word in ("every", "upto"):
            raise ConfigError(
                f"{run.where}: `run ... {word}` cannot be driven; write `run N`, and let a fix do what recurs"
            )
        if word in ("start", "stop"):
            span += words[position : position + 2]
    return Stage(tuple(commands), words[0], " ".join(span), run.where)


# --- reading ----------------------------------------------------------------------------------------------------------


def _commands(path: Path, depth: int = 0) -> Iterator[Command]:
    """The commands of a file and of what it includes."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a LAMMPS input script") from error
    for number, line in _logical_lines(text):
        command = Command(line, f"{path.name}, line {number}")
        if command.name != "include":
            yield command
            continue
        if depth == _DEPTH:
            raise ConfigError(f"{command.where}: {_DEPTH} files include each other; end the circle")
        name = " ".join(command.words[1:]).strip("\"'")
        if "$" in name:
            raise ConfigError(f"{command.where}: `{line}`: write the name of the file without variables")
        yield from _commands(path.parent / name, depth + 1)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Commands with the numbers of their first lines: continuation lines joined, comments and empty lines left out."""
    buffer, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if buffer else number
        buffer += line
        if buffer.count('"""') % 2:
            buffer += "\n"
            continue
        command = _without_comment(buffer).strip()
        if command.endswith("&"):
            buffer = command[:-1] or " "
            continue
        buffer = ""
        if command:
            yield first, command
    if command := _without_comment(buffer).strip():
        yield first, command


def _without_comment(line: str) -> str:
    """Everything before a ``#`` that is in no quotes."""
    quote = ""
    position = 0
    while position < len(line):
        if quote:
            if line.startswith(quote, position):
                position += len(quote)
                quote = ""
                continue
        elif line[position] == "#":
            return line[:position]
        elif line[position] in "\"'":
            quote = '"""' if line.startswith('"""', position) else line[position]
            position += len(quote)
            continue
        position += 1
    return line

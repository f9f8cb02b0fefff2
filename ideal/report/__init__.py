"""The report of a run: one self-contained HTML page and its figures as PNG files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_directory: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run directory.

    The run may be unfinished, interrupted or still going on: what is missing is said in the report. Files are replaced
    atomically; figures that cannot be drawn leave no file.

    Args:
        run_directory: the directory that ``ideal-run run`` made.

    Returns:
        Path of ``report.html``.

    Raises:
        ConfigError: there is no such directory, or it holds no run.
        IdealError: the disk is full.

    Example:
        >>> write_report("runs/lithium").name  # doctest: +SKIP
        'report.html'
    """
    from ideal.engine.storage import write_atomically
    from ideal.report.data import read_run
    from ideal.report.derived import derive
    from ideal.report.figures import RenderedFigure, render
    from ideal.report.html import page

    run = read_run(run_directory)
    derived = derive(run)
    figures = list(render(run, derived))
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    for figure in figures:
        file = folder / f"{figure.spec.name}.png"
        if isinstance(figure, RenderedFigure):
            write_atomically(file, figure.light, durable=False)
        else:
            file.unlink(missing_ok=True)
    report = run.path / "report.html"
    write_atomically(report, page(run, derived, figures), durable=False)
    return report

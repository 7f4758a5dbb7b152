"""`rsn2 data fetch` and `rsn2 data check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rsn2.data.checking import BROKEN, COMPLETE, DIFFERS, MISSING, CheckResult, check
from rsn2.data.dataset import data_root
from rsn2.data.errors import DataError, require
from rsn2.data.fetching import by_hand, fetch
from rsn2.data.sources import SOURCES, source_of

typer: Any = require("typer", "the command line")
rich_console: Any = require("rich.console", "the command line")
rich_progress: Any = require("rich.progress", "the command line")
rich_table: Any = require("rich.table", "the command line")

app = typer.Typer(help="Get and check the data sets.", no_args_is_help=True, add_completion=False)
_STYLES = {COMPLETE: "green", MISSING: "yellow", BROKEN: "red", DIFFERS: "red"}

Names = Annotated[
    list[str] | None,
    typer.Argument(help=f"Data sets: {', '.join(SOURCES)}. None named: all of them.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="RSN2_DATA", help="The folder that holds the data sets.", show_default=False),
]


class _DownloadBar:
    """What pooch tells of a download, shown by rich."""

    def __init__(self, progress: Any, description: str):
        self._progress = progress
        self._task = progress.add_task(description, total=None)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, num_bytes: float) -> None:
        self._progress.reset(self._task, total=num_bytes or None)

    def update(self, num_bytes: float) -> None:
        self._progress.update(self._task, advance=num_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.refresh()


def _shown(progress: Any, task: Any) -> Callable[[int, int], None]:
    return lambda done, total: progress.update(task, completed=done, total=total)


def _console() -> Any:
    # Paths and messages are printed as they are: no markup, no wrapping in the middle of a path.
    return rich_console.Console(markup=False, highlight=False, soft_wrap=True)


def _fail(message: str) -> Any:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(code=1)


def _known(names: list[str] | None) -> list[str]:
    try:
        return [source_of(name).name for name in dict.fromkeys(names or SOURCES)]
    except ValueError as error:
        raise _fail(str(error)) from None


@app.command("fetch")
def fetch_command(names: Names = None, data_dir: DataDir = None) -> None:
    """Download data sets, compare checksums, and lay them out as the readers expect them."""
    wanted = _known(names)
    console = _console()
    try:
        root = data_root(data_dir, wanted_by="rsn2 data fetch")
        for name in wanted:
            source = SOURCES[name]
            if not names and not source.files and not (root / name).exists():
                console.print(by_hand(source, root))
                continue
            columns = rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()
            bar = rich_progress.BarColumn()
            text = rich_progress.TextColumn("{task.description}")
            with rich_progress.Progress(text, bar, *columns, console=console, transient=True) as progress:
                folder = fetch(name, root, progressbar=_DownloadBar(progress, name))
            console.print(f"{name}: complete in {folder} ({source.terms})")
    except (DataError, ImportError) as error:
        raise _fail(str(error)) from None


@app.command("check")
def check_command(names: Names = None, data_dir: DataDir = None) -> None:
    """Read whole data sets and compare them with the published content.

    The exit code is 1 when one is broken or differs, or when one that was named is missing, or all are.
    """
    wanted = _known(names)
    console = _console()
    results: list[CheckResult] = []
    try:
        root = data_root(data_dir, wanted_by="rsn2 data check")
        with rich_progress.Progress(console=console, transient=True) as progress:
            for name in wanted:
                task = progress.add_task(name, total=None)
                results.append(check(name, root, on_image=_shown(progress, task)))
                progress.remove_task(task)
    except (DataError, ImportError) as error:
        raise _fail(str(error)) from None
    table = rich_table.Table(title=f"Data sets in {root}")
    for heading in ("data set", "status", "found"):
        table.add_column(heading, overflow="fold")
    for result in results:
        table.add_row(result.name, result.status, result.detail, style=_STYLES[result.status])
    rich_console.Console(markup=False, highlight=False).print(table)
    for result in results:
        if result.status == MISSING:
            source = SOURCES[result.name]
            command = f"{result.name}: `rsn2 data fetch {result.name} --data-dir {root}`"
            console.print(command if source.files else by_hand(source, root))
    is_missing = names or all(result.status == MISSING for result in results)
    failing = {BROKEN, DIFFERS} | ({MISSING} if is_missing else set())
    if any(result.status in failing for result in results):
        raise typer.Exit(code=1)

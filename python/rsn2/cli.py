"""``rsn2 ...``: the demo, the experiments, data sets, reports.

Everything slow is imported inside the command that needs it, so that ``rsn2 --help`` is immediate.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rsn2.memory import keep_freed_memory

# What the libraries raise for wrong input, missing files and absent backends. Anything else is a bug and keeps its
# traceback.
_CLEAR_ERRORS = (ValueError, TypeError, LookupError, RuntimeError, OSError, ImportError)


class _OneLineErrors(TyperGroup):
    """Shows errors of the libraries as one line and exits with 2; ``--debug`` shows the traceback instead."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):  # both are RuntimeErrors
            raise
        except _CLEAR_ERRORS as error:
            if ctx.params.get("debug"):
                raise
            words = error.args[0] if isinstance(error, KeyError) and error.args else error
            typer.echo(f"error: {str(words) or type(error).__name__}", err=True)
            raise typer.Exit(code=2) from None


class _SeveralSeeds(TyperCommand):
    """Takes ``--seeds 0 1 2`` besides ``--seeds 0 --seeds 1 --seeds 2``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        expanded: list[str] = []
        within = False
        for number, argument in enumerate(args):
            is_number = argument.isdecimal()
            if within and is_number and args[number - 1] != "--seeds":
                expanded.append("--seeds")
            within = argument == "--seeds" or (within and is_number)
            expanded.append(argument)
        return super().parse_args(ctx, expanded)


app = typer.Typer(cls=_OneLineErrors, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="One network, many tasks, each in its own disjoint part of the weights.")  # fmt: skip

# More threads than processors only wait for each other, and very many take the machine's last process.
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=os.cpu_count(), help="Threads for PyTorch; its own choice by default.", show_default=False),
]


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = metadata.version("rsn2-kernels")
    except metadata.PackageNotFoundError:  # run from a source tree
        from rsn2_kernels import __version__ as version
    typer.echo(f"rsn2 {version}")
    raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("rsn2-demo.html"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs only: shows that it runs, not how well.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides starting values and the order of the data.")] = 0,
    threads: Threads = None,
) -> None:
    """Four tasks of different kinds in one network: nothing is downloaded, nothing is forgotten."""
    _use_threads(threads)
    from rsn2.demo import run_demo

    run_demo(out, quick=quick, seed=seed)


@app.command("list")
def list_experiments() -> None:
    """The experiments that `rsn2 run` knows."""
    from rich.console import Console
    from rich.table import Table

    from rsn2.experiments import EXPERIMENTS

    table = Table("name", "what it does", title="Experiments")
    for name, (_, _, title) in EXPERIMENTS.items():
        table.add_row(name, title)
    Console(highlight=False).print(table)


@app.command(cls=_SeveralSeeds)
def run(
    experiment: Annotated[str, typer.Argument(help="Its name, see `rsn2 list`; `all` are the paper's eight.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="RSN2_DATA", help="The folder of the data sets, see `rsn2 data`.", show_default=False),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(min=0, help="One or several, as 0 1 2; those of the experiment by default.", show_default=False),
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="May be given several times; all by default.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A run of seconds on a slice of the data.")] = False,
    progress: Annotated[bool, typer.Option(help="Progress bars.")] = True,
    device: Annotated[str, typer.Option(help="Where networks are trained, for example cuda.")] = "cpu",
    threads: Threads = None,
) -> None:
    """Run an experiment of the paper: finished parts are skipped, an interrupted one goes on where it was."""
    from rsn2.experiments import EXPERIMENTS, PAPER, load_experiment

    if experiment not in (*EXPERIMENTS, "all"):
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, or all, got {experiment!r}")
    loaded = [load_experiment(name) for name in (PAPER if experiment == "all" else (experiment,))]
    _use_threads(threads)
    from rsn2.experiments.running import run as run_units
    from rsn2.report.results import write_markdown

    for one in loaded:
        one.units(variants=None if variant is None else tuple(variant))  # a wrong one is known before any work
    _check_device(device)
    for one in loaded:
        run_units(one, out, data_dir=data_dir, seeds=seeds, variants=variant, smoke=smoke, progress=progress,
                  device=device, say=typer.echo)  # fmt: skip
        path = write_markdown(one, out)
        typer.echo(path.read_text(encoding="utf-8"))
        typer.echo(f"{out / f'{one.name}.jsonl'} and {path} hold this")


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        reason = str(error).split("\n")[0]
        raise ValueError(f"--device must be one that this PyTorch can use, got {name!r}: {reason}") from None


@app.command()
def report(results_dir: Annotated[Path, typer.Argument(help="A folder that `rsn2 run` wrote.")]) -> None:
    """Tables of all results under a folder, as Markdown and as one HTML page."""
    from rsn2.report.results import write_report

    for path in write_report(results_dir):
        typer.echo(f"{path} written")


@app.command()
def backends() -> None:
    """What this installation can run on, and why."""
    import torch

    import rsn2_kernels

    typer.echo(f"rsn2_kernels {rsn2_kernels.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    typer.echo(str(rsn2_kernels.backends()))


@app.command()
def bench(threads: Threads = None) -> None:
    """How fast the layers are on this machine, beside the best that PyTorch has without them; in half a minute."""
    _use_threads(threads)
    _bench_headline().show()


def _bench_headline() -> Any:
    """``bench.headline`` of the source tree that the packages come from, or its copy in an installation."""
    import importlib
    import sys

    import rsn2_kernels

    tree = Path(rsn2_kernels.__file__).resolve().parents[1]
    if not (tree / "bench" / "headline.py").exists():
        return importlib.import_module("rsn2._bench.headline")
    if str(tree) not in sys.path:
        sys.path.append(str(tree))
    return importlib.import_module("bench.headline")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def data(ctx: typer.Context) -> None:
    """Get and check the data sets: `rsn2 data --help`."""
    from rsn2.data.cli import app as data_app

    data_app(args=ctx.args, prog_name="rsn2 data")


def main() -> None:
    """The entry point of the command ``rsn2``."""
    keep_freed_memory()
    app()

"""The demo's results as tables in the terminal."""

from __future__ import annotations

from typing import Any

from rsn2.data.errors import require
from rsn2.demo.wording import difference, kilobytes, milliseconds, score_text, stage_names, verdict


def print_tables(console: Any, result: Any) -> None:
    """Print what the page shows, without the pictures."""
    table_class = require("rich.table", "rsn2 demo").Table

    def table(title: str, *headings: str) -> Any:
        made = table_class(title=title, title_justify="left", title_style="bold")
        for number, heading in enumerate(headings):
            made.add_column(heading, justify="left" if number == 0 else "right")
        return made

    scores = table("On test data", "task", "measure", "here", "dedicated", "difference")
    for name, task in result.tasks.items():
        ours, alone = result.final[name].score, result.dedicated[name].score
        scores.add_row(
            name, task.metric, score_text(task, ours), score_text(task, alone), difference(task, ours, alone)
        )
    console.print(scores)

    stages = stage_names()
    losses = table(
        "Test loss after each stage: it never changes once a task is finished", "task", *stages, "outputs and weights"
    )
    for name in result.tasks:
        cells = [f"{stage[name].loss:.4f}" if name in stage else "" for stage in result.after_stage]
        losses.add_row(name, *cells, verdict(result, name))
    console.print(losses)
    forgetful = table("The same in an ordinary network, which forgets", "task", *stages)
    for name in result.tasks:
        forgetful.add_row(name, *(f"{s[name].loss:.4f}" if name in s else "" for s in result.ordinary_after_stage))
    console.print(forgetful)

    owned = table("Weights owned in each layer of the trunk", "layer", *result.tasks, "free")
    for layer_name, counts in result.net.owned_weights().items():
        numel = dict(result.net.task_layers(0))[layer_name][0].numel
        owned.add_row(layer_name, *(f"{counts[name]:,}" for name in result.tasks), f"{numel - sum(counts.values()):,}")
    console.print(owned)

    size = table("Bytes", "", "kB")
    for words, num_bytes in (
        ("one network for four tasks", result.sizes.ours_stored),
        ("  its file", result.sizes.ours_file),
        ("  derived index, in memory only", result.sizes.ours["index"]),
        ("four dedicated networks", result.sizes.dedicated),
        ("  their files", result.sizes.dedicated_file),
    ):
        size.add_row(words, kilobytes(num_bytes))
    console.print(size)

    time = table(
        "Milliseconds, median (20 % to 80 %)", "rows", "one mixed batch", "four dedicated networks", "times faster"
    )
    for speed in result.speeds:
        rows = f"{speed.rows_per_task} of each task"
        time.add_row(rows, milliseconds(speed.ours), milliseconds(speed.dedicated),
                     f"{speed.ratio:.2f}" + (" (disturbed by other work)" if speed.is_noisy else ""))  # fmt: skip
    console.print(time)

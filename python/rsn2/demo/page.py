"""The demo's results as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsn2.demo import wording
from rsn2.demo.tasks import DEPTH, STAGES, WIDTH
from rsn2.report import charts, page
from rsn2.report.charts import Bar, Line
from rsn2.report.owner_picture import FREE_COLOUR, owner_picture

COLOURS = page.SERIES
OURS, OTHER = "var(--accent)", "var(--neutral)"


def write_page(path: Path, result: Any) -> None:
    """Write the page, which needs no other file."""
    path.write_text(render(result), encoding="utf-8")


def render(result: Any) -> str:
    """The page as text."""
    num_tasks = len(result.tasks)
    share = sum(sum(counts.values()) for counts in result.net.owned_weights().values()) / (DEPTH * WIDTH * WIDTH)
    lead = (
        f"One network of {DEPTH} shared layers learns {num_tasks} real tasks of different kinds. Each task owns "
        f"{100 * result.protocol.keep:g} % of the shared weights, no weight belongs to two, and only a task's own "
        f"weights are read, computed and trained for it."
    )
    speed = result.speeds[0]
    tiles = page.tiles([
        ("0 bits", "of finished tasks changed while others were trained: checked by hash in this run"),
        (f"{100 * share:.0f} %", f"of the shared weights hold all {num_tasks} tasks; the rest is free for more"),
        (f"{result.sizes.dedicated / result.sizes.ours_stored:.1f} ×", "fewer bytes than one dense network per task"),
        ("not measured well" if speed.is_noisy else _times(speed.ratio),
         f"for a mixed batch of {speed.rows_per_task * num_tasks} rows, against these networks"
         + (": other work disturbed it, run the demo again" if speed.is_noisy else "")),
    ])  # fmt: skip
    quick = page.paragraph("<b>A quick run:</b> two epochs only. It shows that everything runs, not how well.", "bad")
    parts = (_accuracy, _forgetting, _owners, _bytes, _time, _shortcomings, _again)
    sections = [tiles, quick if result.quick else "", *(part(result) for part in parts)]
    return page.page("Four tasks, one network, nothing forgotten", lead, sections, _footer(result))


def _times(ratio: float) -> str:
    return f"{ratio:.1f} × faster" if ratio >= 1 else f"{1 / ratio:.1f} × slower"


def _accuracy(result: Any) -> str:
    rows, bars = [], []
    for name, task in result.tasks.items():
        ours, alone = result.final[name].score, result.dedicated[name].score
        worse = "bad" if ours < alone else "good" if ours > alone else "soft"
        about = f"{task.what}; {task.metric}; {len(task.data.train)} rows to train, {len(task.data.test)} to test"
        rows.append([
            f"<b>{page.text(name)}</b><br><span class='soft'>{page.text(about)}</span>",
            wording.score_text(task, ours), wording.score_text(task, alone),
            f'<span class="{worse}">{wording.difference(task, ours, alone).replace(" (", "<br>(")}</span>',
        ])  # fmt: skip
        for who, score, outlined in (("one of four tasks here", ours, False), ("dedicated", alone, True)):
            colour = OTHER if outlined else OURS
            part = ((max(score, 0.0), colour, f"{name}: {task.metric}"),)
            bars.append(Bar(f"{name}, {who}", part, wording.score_text(task, score), outlined=outlined))
    headings = ("task", "here", "dedicated", "difference")
    picture = page.figure(
        charts.bars("Test results, here and in dedicated networks", bars),
        "How well each task is predicted on data never seen (longer is better): filled, as one of four tasks in one "
        "network; outlined, by a network of its own.",
    )
    return page.section(
        "As good as a network of its own?",
        page.paragraph(
            "Every task is compared with a dedicated dense network of the same shape, trained in the same way, which "
            f"may use all of its weights, {100 / (100 * result.protocol.keep):g} times as many in the shared layers."
        ),
        page.row(picture, page.wide(page.table(headings, rows))),
    )


def _loss_lines(result: Any, after_stage: Sequence[Any]) -> str:
    stages = [f"{number + 1}\n{_short(names)}" for number, names in enumerate(STAGES)]
    lines = [
        Line(name, tuple(stage[name].loss if name in stage else None for stage in after_stage), COLOURS[number])
        for number, name in enumerate(result.tasks)
    ]
    # Both pictures have one scale, so that they can be compared.
    largest = max(test.loss for stage in (*result.after_stage, *result.ordinary_after_stage) for test in stage.values())
    return charts.lines("Test loss after each stage of training", stages, lines, "test loss", at_least=largest)


def _short(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else "two tasks"


def _forgetting(result: Any) -> str:
    here = page.figure(
        _loss_lines(result, result.after_stage),
        "In this network: once a task is finished its line is flat, whatever is learned afterwards.",
    )
    ordinary = page.figure(
        _loss_lines(result, result.ordinary_after_stage),
        "In an ordinary network that learns the same tasks in the same order: what was learned first gets worse.",
    )
    rows = []
    for name in result.tasks:
        last = result.proof.last[name]
        losses = [f"{stage[name].loss:.6f}" if name in stage else "" for stage in result.after_stage]
        rows.append([page.text(name), *losses, f"<code>{last.outputs[:12]}</code>", f"<code>{last.owned[:12]}</code>",
                     wording.verdict(result, name)])  # fmt: skip
    headings = (
        "task",
        *(f"loss after stage {number}" for number in range(1, len(STAGES) + 1)),
        "outputs, hash",
        "weights, hash",
        "every bit",
    )
    return page.section(
        "Nothing is forgotten",
        page.paragraph(
            "Digits and breast cancer are learned together, then wine, then diabetes. When a task is finished, a hash "
            "(SHA-256) is taken of its outputs on all test rows and of every byte that it owns: weights, their places, "
            "biases, input and output layers. The hashes are taken again after every later stage and at the end; had "
            "one bit changed, this page would not exist."
        ),
        page.row(here, ordinary),
        page.table(headings, rows),
    )


def _owners(result: Any) -> str:
    names = list(result.tasks)
    layers = result.net.task_layers(0)
    shown = page.key([*((COLOURS[number], name) for number, name in enumerate(names)), (FREE_COLOUR, "free")])
    pictures, bars, rows = [], [], []
    owned = result.net.owned_weights()
    for layer_name, (layer, _) in layers.items():
        masks = [layer.mask(result.net.slot_of(name, layer_name)) for name in names]
        picture = owner_picture(masks, f"Owners of the weights of {layer_name}", corner=112, pixels=2)
        pictures.append(
            page.figure(picture, f"{layer_name}: 112 × 112 of its {WIDTH} × {WIDTH} weights, one dot each.", 226)
        )
        counts = owned[layer_name]
        free = layer.numel - sum(counts.values())
        parts = [(counts[name], COLOURS[number], f"{name}: {counts[name]:,}") for number, name in enumerate(names)]
        bars.append(
            Bar(layer_name, (*parts, (free, FREE_COLOUR, f"free: {free:,}")), f"{100 * (1 - free / layer.numel):.0f} %")
        )
        rows.append([page.text(layer_name), *(f"{counts[name]:,}" for name in names), f"{free:,}", f"{layer.numel:,}"])
    picture = page.figure(
        charts.bars("Share of each layer that is owned", bars),
        "How much of each shared layer the four tasks own; the grey rest is free for tasks to come.",
    )
    table = page.table(("layer", *names, "free", "all"), rows)
    return page.section(
        "Who owns which weights",
        page.paragraph(
            "Each task chose the free weights with the largest gradient of its loss, in every layer the same number."
        ),
        shown,
        page.row(*pictures),
        page.row(picture, page.wide(table)),
    )


def _bytes(result: Any) -> str:
    size, kb = result.sizes, wording.kilobytes
    words = {"values": "values of the owned weights", "positions": "their positions", "biases": "biases",
             "dense": "input and output layers"}  # fmt: skip
    parts = tuple((size.ours[part], COLOURS[number], what) for number, (part, what) in enumerate(words.items()))
    dense = ((size.dedicated, OTHER, "dense weights"),)
    picture = page.figure(
        charts.bars(
            "Bytes of one network and of four",
            [Bar("one network, four tasks", parts, f"{kb(size.ours_stored)} kB"),
             Bar("four dedicated networks", dense, f"{kb(size.dedicated)} kB", outlined=True)],
        ),
        "Everything that must be kept to predict, in thousands of bytes: shorter is better.",
    )  # fmt: skip
    rows = [[what, kb(num_bytes)] for num_bytes, _, what in parts]
    rows += [
        ["<b>one network, in all</b>", f"<b>{kb(size.ours_stored)}</b>"],
        ["its file (safetensors)", kb(size.ours_file)],
        ["derived index: in memory only, made when the network is loaded", kb(size.ours["index"])],
        ["<b>four dedicated networks</b>", f"<b>{kb(size.dedicated)}</b>"],
        ["their files (safetensors)", kb(size.dedicated_file)],
    ]
    shown = page.key([(colour, what) for _, colour, what in parts])
    return page.section("Bytes", page.row(wide_figure(picture, shown), page.wide(page.table(("what", "kB"), rows))))


def wide_figure(picture: str, legend: str) -> str:
    """A figure with its legend above, kept together."""
    return f'<div style="max-width:340px">{legend}{picture}</div>'


def _time(result: Any) -> str:
    rows, pictures = [], []
    for speed in result.speeds:
        num_rows = speed.rows_per_task * len(result.tasks)
        what = f"{num_rows} rows, {speed.rows_per_task} of each task"
        items = [
            Bar(label, ((timing.median_ms(), colour, label),), f"{timing.median_ms():.2f} ms", timing.quantile_ms(0.2),
                timing.quantile_ms(0.8), outlined)
            for label, timing, colour, outlined in (
                ("one mixed batch, one network", speed.ours, OURS, False),
                ("four dedicated networks, one after another", speed.dedicated, OTHER, True),
            )
        ]  # fmt: skip
        pictures.append(page.figure(charts.bars(f"Milliseconds for {what}", items),
                                    f"Milliseconds to predict {what} (median; the whisker spans 20 % to 80 % of the "
                                    f"runs): shorter is better."))  # fmt: skip
        style = "good" if speed.ratio >= 1 and not speed.is_noisy else "bad"
        verdict = _times(speed.ratio) + (" (disturbed)" if speed.is_noisy else "")
        rows.append([what, wording.milliseconds(speed.ours), wording.milliseconds(speed.dedicated),
                     f'<span class="{style}">{verdict}</span>',
                     "yes" if speed.is_identical else "up to rounding"])  # fmt: skip
    facts = result.environment
    how = (
        f"Measured in turns on {page.text(facts['processor'])}, {facts['threads']} threads, torch "
        f"{page.text(facts['torch'])}, {_kernels(facts)}. The dedicated networks run with all threads or with one, "
        f"whichever is faster. Before timing, the outputs were compared with the same weights in dense layers in "
        f"float64."
    )
    headings = ("rows", "one network, ms", "four networks, ms", "one network is", "same bits as one by one")
    return page.section("Milliseconds", page.paragraph(how), page.row(*pictures), page.table(headings, rows))


def _kernels(facts: Any) -> str:
    level = facts["cpu_level"]
    return (
        f"compiled kernels at level {page.text(level)}"
        if level
        else "the plain PyTorch reference (no compiled kernels here)"
    )


def _shortcomings(result: Any) -> str:
    entries = "".join(f"<li>{page.text(sentence)}</li>" for sentence in wording.shortcomings(result))
    return page.section("Where it is not better", f"<ul>{entries}</ul>")


def _again(result: Any) -> str:
    settings = result.protocol
    protocol = (
        f"Every network: input layer, {DEPTH} layers of {WIDTH} with ReLU, output layer. AdamW (learning rate "
        f"{settings.learning_rate:g}, weight decay {settings.weight_decay:g}), batches of {settings.batch_size}, at "
        f"most {settings.max_epochs} epochs, stopped when the validation loss has not fallen by {settings.min_delta:g} "
        f"for {settings.patience} epochs, best weights restored. 60 % of the rows train, 20 % validate, 20 % test; "
        f"test rows decide nothing. Seed {settings.seed}. In the shared network input and output layers are dense and "
        f"belong to their task; only the {DEPTH} layers between them are shared."
    )
    command = "rsn2 demo" + (f" --seed {settings.seed}" if settings.seed else "") + (" --quick" if result.quick else "")
    return page.section(
        "How it was done", page.paragraph(page.text(protocol)), page.paragraph(f"Again: <code>{command}</code>")
    )


def _footer(result: Any) -> str:
    facts = result.environment
    commit = f", commit <code>{page.text(facts['commit'][:12])}</code>" if facts["commit"] else ""
    return (
        f"rsn2_kernels {facts['rsn2_kernels']}{commit}, torch {page.text(facts['torch'])}, Python {facts['python']}. "
        f"Made in {result.seconds:.0f} s. Data: scikit-learn's digits, breast cancer, wine and diabetes."
    )

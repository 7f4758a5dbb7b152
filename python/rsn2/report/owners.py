"""Who owns which weights: shares of every layer, as a table and as bars."""

from __future__ import annotations

from dataclasses import dataclass

from rsn2.report import charts, page
from rsn2.report.charts import Bar
from rsn2.report.costs import num_weights
from rsn2.report.entries import Entry
from rsn2.report.owner_picture import FREE_COLOUR
from rsn2.report.plots import colour_of
from rsn2.report.tables import Table

_COUNTS = ("of several tasks", "of none", "all")  # what the authors' rule is counted by besides the tasks


@dataclass(frozen=True)
class Layer:
    """A layer's weights: how many there are and how many each owner has; an owner are tasks that share a slot."""

    name: str
    num_weights: int
    owned: dict[str, int]
    is_exact: bool

    @property
    def num_free(self) -> int:
        return self.num_weights - sum(self.owned.values())


def layers_of(entry: Entry) -> list[Layer]:
    """The layers after the last stage of a seed that is finished; the counts are the same for all.

    Lines of before layers' sizes were written lack them: they are then what the task's share (``keep``) makes of the
    owned weights.
    """
    networks = entry.networks()
    if entry.is_control or not networks or "owned_per_layer" not in networks[0][-1]["metrics"]:
        return []
    whole = next((lines for lines in networks if "weights_per_layer" in lines[-1]["metrics"]), networks[0])
    metrics, settings = whole[-1]["metrics"], whole[-1]["settings"]
    found = []
    for name, counts in metrics.get("owned_per_slot", metrics["owned_per_layer"]).items():
        if "weights_per_layer" in metrics:
            found.append(Layer(name, metrics["weights_per_layer"][name], counts, True))
        elif "keep" in settings:
            size = max(max(counts.values()) / settings["keep"], sum(counts.values()))
            found.append(Layer(name, round(size), counts, False))
    return found


def owners_of(layers: list[Layer], entry: Entry) -> list[str]:
    """Every owner in the order in which the tasks claimed, tasks first and then tasks that share."""
    found = list(dict.fromkeys(owner for layer in layers for owner in layer.owned))
    order = [task for stage in entry.stages for task in stage.split("+")]
    places = {task: place for place, task in enumerate(order)}
    return sorted(found, key=lambda owner: ("+" in owner, places.get(owner.partition("+")[0], len(places))))


def owner_table(entry: Entry) -> Table | None:
    """Owned and free weights of every layer; None where the lines do not say."""
    layers = layers_of(entry)
    if not layers:
        return None
    owners, sign = owners_of(layers, entry), "" if layers[0].is_exact else "≈ "
    rows = [
        (layer.name, f"{sign}{layer.num_weights:,}",
         *(f"{layer.owned[owner]:,}" if owner in layer.owned else "" for owner in owners), f"{sign}{layer.num_free:,}")
        for layer in layers
    ]  # fmt: skip
    total, free = sum(layer.num_weights for layer in layers), sum(layer.num_free for layer in layers)
    sums = [sum(layer.owned.get(owner, 0) for layer in layers) for owner in owners]
    rows.append(("all", f"{sign}{total:,}", *(f"{number:,}" for number in sums), f"{sign}{free:,}"))
    note = f"{100 * (1 - free / total):.1f} % of the weights are owned; no weight has two owners."
    if sum(sums) > num_weights(entry.networks()[0][-1]):
        note = "Tasks that share weights are not known of these results: shared weights are counted for each of them."
    if any("+" in owner for owner in owners):
        note += " Tasks joined by + share what they own."
    if sign:
        note += " Sizes of layers (≈) are computed from the share that each task claims."
    headings = ("layer", "weights", *(owner.replace("+", " + ") for owner in owners), "free")
    return Table(f"Who owns which weights: {entry.title}", headings, tuple(rows), note)


def authors_table(entry: Entry) -> Table | None:
    """What the rule of the authors' code would choose; None where it was not counted."""
    found = [line["metrics"]["authors_selection"] for line in entry.lines if "authors_selection" in line["metrics"]]
    if not found:
        return None
    names = list(dict.fromkeys(name for counts in found[-1].values() for name in counts if name not in _COUNTS))
    has_shared = any(counts[_COUNTS[0]] for counts in found[-1].values())
    shared = "Networks here cannot hold weights of several tasks." if has_shared else "No weight is taken twice here."
    is_magnitude = entry.lines[-1]["settings"].get("score") == "magnitude"
    rows = [
        (layer, *(f"{counts[name]:,}" if name in counts else "" for name in (_COUNTS[2], *names, *_COUNTS[:2])))
        for layer, counts in found[-1].items()
    ]
    return Table(
        f"{entry.title[:1].upper()}{entry.title[1:]}",
        ("layer", "weights", *names, *_COUNTS[:2]),
        tuple(rows),
        f"Before training, by the size of the {'weight' if is_magnitude else 'gradient'}, seed "
        f"{entry.lines[-1]['seed']}. {shared}",
    )


def owner_picture(entry: Entry) -> str:
    """One bar per layer, as shares (HTML); nothing where the lines do not say."""
    layers = layers_of(entry)
    if not layers:
        return ""
    owners, bars = owners_of(layers, entry), []
    for layer in layers:
        parts, numbers = [], []
        for number, owner in enumerate(owners):
            if layer.owned.get(owner):
                share = 100 * layer.owned[owner] / layer.num_weights
                parts.append((share, colour_of(number), f"{owner}: {share:.1f} %"))
                numbers.append(str(number + 1))
        free = 100 * layer.num_free / layer.num_weights
        parts.append((free, FREE_COLOUR, f"free: {free:.1f} %"))
        size = f"{'' if layer.is_exact else '≈ '}{layer.num_weights:,}"
        bars.append(Bar(f"{layer.name}: {size}", tuple(parts), f"{100 - free:.0f} %", numbers=tuple(numbers)))
    shown = page.numbered_key([(colour_of(n), owner.replace("+", ", ")) for n, owner in enumerate(owners)])
    picture = page.figure(
        shown + page.key([(FREE_COLOUR, "free")]) + charts.bars("Owned share of each layer", bars),
        "Share of each layer that each task owns, after the last stage; beside the layer's name all of its weights.",
    )
    return picture

"""Facts for a model card beyond the recipe: dataset, loss curve, evaluation and the artefact's parity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from studio.engine.artefacts.request import Order
from studio.evaluation.parity import Parity
from studio.rundir import RunDir, read_events, read_json, write_text

CURVE = "loss.svg"
_POINTS = 10
_WIDE, _HIGH, _LEFT, _BOTTOM = 640, 240, 52, 28

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a run or stored adapter.

    losses, evals: (step, loss); rows: number of rows in the dataset; origin: where a stored adapter comes from.
    """

    rows: int = 0
    digest: str = ""
    losses: Points = field(default_factory=list)
    evals: Points = field(default_factory=list)
    evaluation: Sequence[str] = ()
    parity: Parity | None = None
    base_license: str = ""
    origin: dict[str, Any] | None = None
    dtype: str = ""
    steps: int = 0

    @property
    def thinned(self) -> list[tuple[int, float | None, float | None]]:
        """At most 10 loss points for a table, plus all evaluations: step, loss, evaluation loss."""
        evals = dict(self.evals)
        losses = dict(self.losses)
        steps = sorted(losses)
        if len(steps) > _POINTS:
            steps = sorted({steps[place * (len(steps) - 1) // (_POINTS - 1)] for place in range(_POINTS)})
        return [(step, losses.get(step), evals.get(step)) for step in sorted({*steps, *evals})]


def facts_of(order: Order, parity: Parity | None) -> Facts:
    """Collect the facts from the files of a run or of a stored adapter."""
    pointer = read_json(order.run.dataset) or {}
    provenance = read_json(Path(str(pointer.get("path", ""))) / "provenance.json") or {}
    losses, evals = _points(order.run)
    return Facts(
        rows=int(provenance.get("rows", 0)),
        digest=str(pointer.get("sha256", "")),
        losses=losses,
        evals=evals,
        evaluation=order.evaluation,
        parity=parity,
        base_license=license_of(order.model_folder),
        origin=order.origin,
        dtype=order.dtype,
        steps=max((step for step, _ in losses), default=0),
    )


def license_of(folder: Path) -> str:
    """Return the licence named in the model's own card; empty if it names none."""
    card = folder / "README.md"
    if card.is_file():
        head = card.read_text(encoding="utf-8", errors="replace")[:4000]
        if head.startswith("---"):
            for line in head.split("---")[1].splitlines():
                if line.startswith("license:"):
                    return line.partition(":")[2].strip().strip("\"'")
    return ""


def _points(run: RunDir) -> tuple[Points, Points]:
    """Read losses and evaluation losses by step; steps repeated by a resumed worker count once."""
    losses: dict[int, float] = {}
    evals: dict[int, float] = {}
    for event in read_events(run.events).events:
        step = event.payload.get("step")
        if event.kind == "resumed" and isinstance(step, int):
            losses = {at: loss for at, loss in losses.items() if at <= step}
            evals = {at: loss for at, loss in evals.items() if at <= step}
        elif event.kind == "metric" and isinstance(step, int) and event.payload.get("loss") is not None:
            losses[step] = float(event.payload["loss"])
        elif event.kind == "eval" and isinstance(step, int) and event.payload.get("eval_loss") is not None:
            evals[step] = float(event.payload["eval_loss"])
    return sorted(losses.items()), sorted(evals.items())


def write_curve(facts: Facts, folder: Path) -> None:
    """Write the loss curve as an SVG next to the card; none for fewer than two points."""
    if len(facts.losses) > 1:
        write_text(folder / CURVE, curve(facts.losses, facts.evals))


def curve(losses: Points, evals: Points) -> str:
    """Draw training loss as a line and evaluation loss as dots; the SVG suits light and dark backgrounds."""
    values = [loss for _, loss in [*losses, *evals]]
    low, high = min(values), max(values)
    first, last = losses[0][0], losses[-1][0]

    def place(step: int, loss: float) -> tuple[float, float]:
        across = _LEFT + (step - first) / max(1, last - first) * (_WIDE - _LEFT - 12)
        down = 12 + (high - loss) / max(1e-9, high - low) * (_HIGH - _BOTTOM - 24)
        return round(across, 1), round(down, 1)

    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in losses))
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="4" fill="#c2410c"/>' for x, y in (place(*point) for point in evals))
    text = 'font-family="sans-serif" font-size="12" fill="#808080"'
    title = f"Training loss over {last} steps" + (", evaluation loss as dots" if evals else "")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<path d="M{_LEFT} 12V{_HIGH - _BOTTOM}H{_WIDE - 12}" fill="none" stroke="#808080" stroke-opacity=".5"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2" stroke-linejoin="round"/>{dots}'
        f'<text x="6" y="20" {text}>{high:.3g}</text><text x="6" y="{_HIGH - _BOTTOM}" {text}>{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HIGH - 8}" {text}>step {first}</text>'
        f'<text x="{_WIDE - 12}" y="{_HIGH - 8}" text-anchor="end" {text}>{last}</text></svg>\n'
    )

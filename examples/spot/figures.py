"""What a run of the example comes to, in figures, from what its nodes told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from .node import LEAVING

Event = dict[str, Any]

# The parts of an item's name that say what kind of thing it is.
_KINDS = (
    ("/parameter/", "parameter"),
    ("/buffer/", "parameter"),
    ("/optimizer/", "optimizer"),
    ("/gradient/", "gradient"),
    ("/rng", "rng"),
    ("/entry", "rng"),
    ("/meta", "meta"),
    ("/saved.", "saved"),
)


# The parts of what was predicted, in order.
RESUME = ("describe", "stream", "verify", "commit", "take over", "compute again")


@dataclass
class Figures:
    """What happened to the layers of the node that left."""

    moved: dict[str, dict[str, float]] = field(default_factory=dict)
    """By class: items, bytes, and the seconds during which any of them was on its way (not known of a source that was
    killed)."""
    order: list[str] = field(default_factory=list)
    path: dict[str, int] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    transfer_phases_s: dict[str, float] = field(default_factory=dict)
    predicted_s: float | None = None
    """From the notice to when the last new owner was to go on, as node 1 planned it."""
    predicted_range_s: tuple[float, float] | None = None
    """The soonest and the latest moment at which that was to be expected."""
    resume_parts_s: dict[str, float] = field(default_factory=dict)
    """What that is made of."""
    measured_parts_s: dict[str, float] = field(default_factory=dict)
    """What the same parts took: until the decision by node 1, from there on by the new owner that was last."""
    resumed_s: float | None = None
    """From the notice to when the last new owner went on."""
    mode: str | None = None
    """How node 1 left: "stop" or "overlap"."""
    why: str = ""
    """Why so."""
    manifest: str | None = None
    """What `xfer plan --manifest` reads."""
    generation: int | None = None
    outcome: str | None = None
    owners: list[int] = field(default_factory=list)
    reason: str = ""
    missing: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    recomputed: list[str] = field(default_factory=list)
    went_back: tuple[int, int] | None = None
    losses: dict[int, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @staticmethod
    def of(events: list[Event], step: int) -> Figures:
        """The figures of a run whose notice came in `step`."""
        figures = Figures()
        for event in events:
            figures._add(event)
        figures.phases_s = dict(_phases(events, step))
        noticed = [e["t"] for e in events if e["what"] == "noticed" and e["rank"] == LEAVING]
        followed = [e["t"] for e in events if e["what"] == "followed" and "report" in e and e["rank"] != LEAVING]
        if noticed and followed and figures.outcome == "handoff":
            figures.resumed_s = followed[-1] - noticed[0]
        return figures

    def _add(self, event: Event) -> None:
        match event["what"]:
            case "decided":
                self._add_outcome(event)
                report = event["report"]
                self.predicted_s, self.resume_parts_s = report["predicted_s"], report["resume_parts_s"]
                self.predicted_range_s = report["predicted_range_s"]
                self.measured_parts_s |= report["measured_parts_s"]
                self.mode, self.why = report["plan"]["mode"], report["plan"]["why"]
                self.order, self.path, self.transfer_phases_s = report["order"], report["path"], report["phases_s"]
                for kind, moved in report["moved"].items():
                    self._class(kind)["seconds"] = moved["seconds"]
            case "offered all":
                self.manifest = event["manifest"]
            case "followed" if "report" in event:
                self._add_outcome(event)
                self.owners = event["owners"]
                self.measured_parts_s |= event["report"]["measured_parts_s"]
                for kind, moved in event["report"]["moved"].items():
                    self._class(kind)["items"] += moved["items"]
                    self._class(kind)["bytes"] += moved["bytes"]
                if not self.path:
                    # The source was killed before it could say: what each target got, one after the other.
                    self.order = self.order + event["report"]["order"]
            case "restored":
                done = self.replayed if event["how"] == "replayed" else self.recomputed
                why = f": {event['why']}" if event["why"] else ""
                done.append(f"layer {event['layer']}, microbatch {event['microbatch']}{why}")
            case "went back":
                self.went_back = event["from_step"], event["to_step"]
                self.missing = event["missing"]
            case "stepped" if "loss" in event:
                self.losses[event["step"]] = event["loss"]
            case "lost":
                self.lost.append(event["text"])

    def _add_outcome(self, event: Event) -> None:
        self.outcome, self.generation = event["kind"], event["generation"]
        self.reason = event.get("reason", self.reason)

    def _class(self, kind: str) -> dict[str, float]:
        return self.moved.setdefault(kind, {"items": 0, "bytes": 0})


def kind_of(name: str) -> str:
    """The class of an item, by its name."""
    return next((kind for part, kind in _KINDS if part in name), "boundary")


def runs_of(order: list[str]) -> list[tuple[str, int]]:
    """The order in which items arrived, as runs of one class and how many items each has."""
    return [(kind, len(list(run))) for kind, run in groupby(order, kind_of)]


def _phases(events: list[Event], step: int) -> Iterator[tuple[str, float]]:
    """The hand-over in phases that follow each other, from the notice to the end of the step that it came in."""
    leaving = [event for event in events if event["rank"] == LEAVING]
    staying = [event for event in events if event["rank"] != LEAVING]
    at = next((event["t"] for event in leaving if event["what"] == "noticed"), None)
    for phase, whose, what, last in (
        ("reach a safe point", leaving, "stopped", False),
        ("describe what is in flight", leaving, "cut", False),
        ("stream and commit", staying, "heard", False),
        ("take over", staying, "followed", True),
        ("finish the step", staying, "stepped", True),
    ):
        if at is None:
            return
        ends = [e["t"] for e in whose if e["what"] == what and e["t"] >= at and e.get("step", step) == step]
        if ends:
            end = ends[-1] if last else ends[0]
            yield phase, end - at
            at = end

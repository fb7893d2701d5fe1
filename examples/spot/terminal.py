"""What a person sees of a run: a line for each thing that happens, then the figures and the verdict."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

from .figures import RESUME, Event, Figures, runs_of
from .node import LEAVING, Plan

# What moves, in words, in the order in which a hand-over wants it to arrive.
_WORDS = {
    "parameter": "parameters",
    "optimizer": "optimizer state",
    "gradient": "gradients",
    "rng": "random streams",
    "boundary": "layer inputs",
    "meta": "graphs",
    "saved": "saved tensors",
}
_PLACES = {
    "between-steps": "before it begins",
    "forward": "inside a forward",
    "mid-step": "between a forward and a backward",
    "backward": "inside a backward",
}
_ORIGINS = {"signal": "SIGTERM", "file": "a notice file", "store": "`xfer drain`", "api": "a call"}


class Terminal:
    """Prints a run while it happens. Colours only where they are seen as such, and never with NO_COLOR set."""

    def __init__(self, out: TextIO, plan: Plan) -> None:
        self._out = out
        self._plan = plan
        self._colours = out.isatty() and not os.environ.get("NO_COLOR")
        self._owners = list(plan.owners)
        self._restored: list[Event] = []
        self._noticed_s = 0.0
        self._snippet: Event | None = None

    def begin(self) -> None:
        """What is going to be run."""
        config, plan = self._plan.config, self._plan
        self._line(self._bold("xfer spot hand-over"))
        self._line(
            f"  GPT: {config.layers} layers, d_model {config.d_model}, dropout {config.dropout:g}; AdamW; "
            f"{config.microbatches} microbatches of {config.batch} x {config.sequence} tokens a step"
        )
        link = (
            "" if plan.link_bytes_per_s is None else f", node {LEAVING} sends at most {size(plan.link_bytes_per_s)}/s"
        )
        self._line(f"  {len(set(plan.owners))} nodes, a process each, over loopback{link}")
        self._line()

    def event(self, event: Event) -> None:
        """Prints what is worth a line."""
        rank = event["rank"]
        match event["what"]:
            case "snippet":
                self._snippet = event
            case "stepped" if "loss" in event:
                self._line(f"  step {event['step']:<3} loss {event['loss']:.4f}   {self._dim(_owned(self._owners))}")
            case "marked":
                done = {int(layer): counts for layer, counts in event["done"].items()}
                self._headline(
                    f"step {event['step']}, {_PLACES[self._plan.notice_at]}: what node {rank} has done of it"
                )
                for layer, (forwarded, backwarded) in sorted(done.items()):
                    self._line(
                        f"    layer {layer:<3} forwards {_numbers(forwarded):<12} backwards {_numbers(backwarded)}"
                    )
            case "noticed":
                self._noticed_s = event["t"]
                origin = _ORIGINS[self._plan.notice_source]
                self._headline(f"node {rank} gets its notice by {origin}: {event['seconds_left']:.1f} s left")
            case "cut":
                after = {int(layer): heir for layer, heir in event["layers"].items()}
                heirs = sorted(set(after.values()))
                offers = ", ".join(f"{_layers(n for n in after if after[n] == heir)} to node {heir}" for heir in heirs)
                self._at(event, f"node {rank} has stopped between two layers and offers layers {offers}")
            case "heard" if rank != LEAVING:
                self._at(event, f"node {rank} hears generation {event['generation']}: {event['kind']}")
            case "restored":
                self._restored.append(event)
            case "followed" if rank != LEAVING:
                self._owners = event["owners"]
                self._followed(event)
            case "went back":
                steps = f"from step {event['from_step']} to the checkpoint after {event['to_step']} steps"
                self._at(event, self._warn(f"node {rank} goes back {steps}"))
            case "killed":
                self._at(event, f"node {rank} is killed: SIGKILL")
            case "left":
                refused = "; its optimizer may not step" if event["refused"] else ""
                self._at(event, f"node {rank} owns nothing any more{refused}")
            case "lost":
                self._line(f"    {self._bad(f'node {rank}:')} {event['text']}")
            case _:
                pass

    def finish(self, figures: Figures, equal: bool | None, compared: int, verdict: str, exit_code: int) -> None:
        """The figures, and what the comparison with the undisturbed run says."""
        if figures.moved:
            self._moved(figures)
        if figures.phases_s:
            self._headline("phases")
            for phase, seconds in figures.phases_s.items():
                self._line(f"    {phase:<28} {_span(seconds):>10}")
            self._resumed(figures)
        if self._snippet is not None:
            self._headline("the same for a single y that was received (one Linear, SGD with momentum)")
            says = self._good("torch.equal") if self._snippet["equal"] else self._bad("different")
            sent = size(self._snippet["sent_bytes"])
            self._line(f"    node 1 ran the forward; node 0 got y and what its backward needs, {sent}")
            what = "weight, bias and momentum of node 0 after backward and step"
            self._line(f"    {what}, against plain PyTorch: {says}")
        self._headline("verdict")
        if equal is not None:
            says = self._good("all equal") if equal else self._bad("NOT EQUAL")
            what = f"{compared} parameter and optimizer tensors against one undisturbed process"
            self._line(f"    {what}, torch.equal: {says}")
        paint = self._good if exit_code == 0 else self._warn if exit_code == 4 else self._bad
        self._line(f"    {paint(verdict)} {self._dim(f'(exit code {exit_code})')}")

    def _followed(self, event: Event) -> None:
        mine = [e for e in self._restored if e["rank"] == event["rank"]]
        rank = event["rank"]
        text = f"node {rank} goes on with layers {_layers(n for n, r in enumerate(event['owners']) if r == rank)}"
        for how, word in (("replayed", "replayed from saved tensors"), ("recomputed", "recomputed")):
            done = [e for e in mine if e["how"] == how]
            if done:
                took_s = sum(e["seconds"] for e in done)
                text += f"; {len(done)} forward{'s' * (len(done) > 1)} {word} in {_span(took_s)}"
        self._at(event, text)

    def _moved(self, figures: Figures) -> None:
        self._headline(
            f"moved, in this order, over {', '.join(figures.path) or 'a path that node 1 did not live to report'}"
        )
        for line in _wrapped([f"{word} x{count}" for word, count in _runs(figures.order)], " > ", 100):
            self._line(f"    {line}")
        self._line(f"    {'':<18} {'items':>6} {'bytes':>12} {'busy':>10}")
        for kind, word in _WORDS.items():
            moved = figures.moved.get(kind)
            if moved and moved["items"]:
                busy = _span(moved["seconds"]) if moved.get("seconds") else "-"
                self._line(f"    {word:<18} {moved['items']:>6.0f} {size(moved['bytes']):>12} {busy:>10}")
        total = sum(moved["bytes"] for moved in figures.moved.values())
        items = sum(moved["items"] for moved in figures.moved.values())
        self._line(f"    {'in all':<18} {items:>6.0f} {size(total):>12}")
        if figures.missing:
            shown = ", ".join(figures.missing[:3])
            more = f" and {len(figures.missing) - 3} more" if len(figures.missing) > 3 else ""
            self._line(self._warn(f"    lost: {shown}{more}"))
        if figures.replayed or figures.recomputed:
            how = f"{len(figures.replayed)} from their saved tensors, {len(figures.recomputed)} computed again"
            self._line(f"    forwards of node {LEAVING} whose backward ran elsewhere: {how}")

    def _resumed(self, figures: Figures) -> None:
        """What was planned beside what it was."""
        planned_s, resumed_s = figures.predicted_s, figures.resumed_s
        if planned_s is None or resumed_s is None or figures.predicted_range_s is None:
            return
        self._headline("from the notice to when the last new owner goes on")
        self._line(f"    {'':<28} {'planned':>10} {'measured':>10}")
        for part in RESUME:
            planned, measured = (parts.get(part, 0.0) for parts in (figures.resume_parts_s, figures.measured_parts_s))
            self._line(f"    {part:<28} {_span(planned):>10} {_span(measured):>10}")
        off = f"{planned_s / resumed_s - 1:+.0%}; from {' to '.join(map(_span, figures.predicted_range_s))} was to be expected"
        self._line(f"    {'in all':<28} {_span(planned_s):>10} {_span(resumed_s):>10}   {self._dim(off)}")

    def _at(self, event: Event, text: str) -> None:
        since = f"+{_span(event['t'] - self._noticed_s)}" if self._noticed_s else ""
        self._line(f"    {self._dim(f'{since:>9}')}  {text}")

    def _headline(self, text: str) -> None:
        self._line()
        self._line(f"  {self._bold(text)}")

    def _line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text

    def _bold(self, text: str) -> str:
        return self._paint("1", text)

    def _dim(self, text: str) -> str:
        return self._paint("2", text)

    def _good(self, text: str) -> str:
        return self._paint("1;32", text)

    def _bad(self, text: str) -> str:
        return self._paint("1;31", text)

    def _warn(self, text: str) -> str:
        return self._paint("33", text)


def size(nbytes: float) -> str:
    """Bytes for people; MB is 10^6 bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes:.0f} B"


def _span(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def _layers(numbers: Iterable[int]) -> str:
    """[4, 5, 6, 9] as "4-6, 9"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def _numbers(numbers: list[int]) -> str:
    return " ".join(map(str, numbers)) or "-"


def _owned(owners: list[int]) -> str:
    ranks = sorted(set(owners))
    return "   ".join(f"node {rank}: {_layers(n for n, owner in enumerate(owners) if owner == rank)}" for rank in ranks)


def _runs(order: list[str]) -> list[tuple[str, int]]:
    """The order in which items arrived, in words: what is of one kind, or leaves as one group, is one entry."""
    runs: list[tuple[str, int]] = []
    for kind, count in runs_of(order):
        word = {"parameter": "parameters and optimizer state", "optimizer": "parameters and optimizer state"}.get(
            kind, _WORDS[kind]
        )
        word = "graphs and saved tensors" if kind in ("meta", "saved") else word
        if runs and runs[-1][0] == word:
            runs[-1] = word, runs[-1][1] + count
        else:
            runs.append((word, count))
    return runs


def _wrapped(parts: list[str], separator: str, width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= width:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return lines

"""The example itself, with real processes, a real store, real signals and kills: every variant, by its figures and exit
code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[4] / "examples"
SMALL = ["--d-model", "32", "--heads", "2", "--microbatches", "4", "--steps", "5"]
# Saves so little that all of it is sent as soon as the state is there; or enough to fill a slow link for seconds.
LIGHT = ["--sequence", "4", "--batch", "1"]
HEAVY = ["--sequence", "16", "--batch", "2"]

HANDED_OVER = [0] * 6 + [2] * 6
UNCHANGED = [0] * 4 + [1] * 4 + [2] * 4
# All tensors of 12 layers and their AdamW state.
TENSORS = 596


def run(tmp_path: Path, *options: str, expect: int = 0) -> dict[str, Any]:
    """The figures of a run that ends with the exit code `expect`."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(EXAMPLES / "spot_handoff.py"), *SMALL, *options, "--json", str(figures)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "\x1b" not in done.stdout, "colours where nobody sees them"
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(figures.read_text())
    assert found["exit_code"] == expect
    return found


def assert_lossless(figures: dict[str, Any], owners: list[int] = HANDED_OVER) -> None:
    assert figures["equal"] is True
    assert figures["compared_tensors"] == TENSORS
    assert figures["owners"] == owners
    assert figures["generation"] == 1
    assert figures["missing"] == [] and figures["lost"] == [] and figures["went_back"] is None


def restored(figures: dict[str, Any]) -> int:
    assert len(set(figures["replayed"]) | set(figures["recomputed"])) == len(
        figures["replayed"] + figures["recomputed"]
    )
    return len(figures["replayed"]) + len(figures["recomputed"])


def test_the_step_is_finished_while_state_leaves(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--leave", "overlap")
    assert_lossless(figures)
    assert figures["outcome"] == "handoff"
    assert restored(figures) == 0, "nothing was in flight any more"
    assert figures["moved_items"]["gradient"] == 48
    assert "saved" not in figures["moved_items"]


def test_with_a_long_notice_the_node_chooses_to_finish_its_step(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--leave", "auto", "--notice", "60s")
    assert_lossless(figures)
    assert figures["mode"] == "overlap"
    assert "overlap loses" in figures["why"] and "stop loses" in figures["why"]
    assert restored(figures) == 0, "nothing was in flight any more"


def test_a_running_job_says_what_a_plan_needs_to_know(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    figures = run(tmp_path, *LIGHT, "--manifest", str(file))
    manifest = json.loads(file.read_text())
    assert manifest["leaving"] == [1]
    step, handling = manifest["step"], manifest["handling"]
    assert step["done_s"] > 0 and step["slowdown"] == 1.5, "two ranks do what three did"
    assert step["rollback_s"] > 0, "the step before has no checkpoint"
    assert handling["commit_s"] > 0 and handling["digest_bytes_per_s"] > 0
    # A new owner that has work of its own until the decision does all of it afterwards.
    assert handling["meanwhile_s"] >= 0 and handling["after_s"] > 0
    assert manifest["memory_bytes"].keys() == {"0", "2"}
    parts = figures["resume_parts_s"]
    assert parts.keys() == {"describe", "stream", "verify", "commit", "take over", "compute again"}
    assert figures["predicted_s"] == pytest.approx(sum(parts.values()))
    soonest_s, latest_s = figures["predicted_range_s"]
    assert soonest_s <= figures["predicted_s"] <= latest_s
    measured = figures["measured_parts_s"]
    assert measured.keys() == parts.keys()
    assert measured["describe"] == pytest.approx(parts["describe"]), "it is over when the prediction is made"
    assert measured["take over"] > 0


@pytest.mark.parametrize(
    ("place", "in_flight"), [("between-steps", 0), ("forward", 6), ("backward", 6), ("mid-step", 8)]
)
def test_nothing_is_lost(tmp_path: Path, place: str, in_flight: int) -> None:
    figures = run(tmp_path, *LIGHT, "--notice-at", place)
    assert_lossless(figures)
    assert figures["outcome"] == "handoff"
    assert restored(figures) == in_flight
    if in_flight:
        assert len(figures["replayed"]) > in_flight / 2
        assert figures["moved_items"]["gradient"] == 48
        assert figures["moved_bytes"]["saved"] > 0
    assert figures["moved_items"]["parameter"] == 48
    assert figures["moved_items"]["optimizer"] == 3 * 48
    assert figures["moved_bytes"]["optimizer"] > 2 * figures["moved_bytes"]["parameter"]
    assert set(figures["path"]) == {"shm"}
    assert sum(figures["path"].values()) >= sum(figures["moved_bytes"].values())
    assert figures["seconds"].keys() == figures["moved_bytes"].keys()
    assert len(figures["order"]) == sum(figures["moved_items"].values())
    phases = ["reach a safe point", "describe what is in flight", "stream and commit", "take over", "finish the step"]
    assert list(figures["phases_s"]) == phases
    assert all(seconds >= 0 for seconds in figures["phases_s"].values())


def test_what_can_be_computed_again_comes_last(tmp_path: Path) -> None:
    figures = run(tmp_path, *HEAVY)
    # `order` is the order of landing, and two links are not equally fast: it says something target by target.
    for layers in ([4, 5], [6, 7]):
        landed = [name for name in figures["order"] if any(f"layer.{layer}/" in name for layer in layers)]
        saved = [n for n, name in enumerate(landed) if "/saved." in name]
        assert saved and saved[0] > 75
        assert sum("/parameter/" in name for name in landed[: saved[0]]) == 24


@pytest.mark.parametrize("source", ["file", "api"])
def test_other_origins_of_the_notice(tmp_path: Path, source: str) -> None:
    assert_lossless(run(tmp_path, *LIGHT, "--notice-source", source))


@pytest.mark.skipif(
    shutil.which("xfer") is None and not list((EXAMPLES.parent / "target").glob("*/xfer")),
    reason="the program `xfer` is not built",
)
def test_an_operator_drains_the_node(tmp_path: Path) -> None:
    assert_lossless(run(tmp_path, *LIGHT, "--notice-source", "store"))


def test_slow_link(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--link", "4Mbps")
    assert_lossless(figures)
    assert sum(figures["moved_bytes"].values()) / figures["phases_s"]["stream and commit"] < 1e6


def test_only_part_of_the_activations_arrives(tmp_path: Path) -> None:
    figures = run(tmp_path, *HEAVY, "--link", "2Mbps", "--notice", "6s")
    assert_lossless(figures)
    assert restored(figures) == 8
    assert figures["recomputed"]
    assert figures["moved_bytes"]["gradient"] == figures["moved_bytes"]["parameter"]


def test_recomputing_is_preferred(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--activations", "recompute")
    assert_lossless(figures)
    assert len(figures["recomputed"]) == 8 and "saved" not in figures["moved_bytes"]


def test_state_without_a_copy_does_not_arrive(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--link", "1Mbps", "--notice", "2s", expect=4)
    assert figures["outcome"] == "restore"
    assert figures["equal"] is True
    assert figures["went_back"] == [3, 2]
    assert figures["missing"]
    assert figures["owners"] == HANDED_OVER


def test_source_dies_while_activations_move(tmp_path: Path) -> None:
    figures = run(tmp_path, *HEAVY, "--kill-source-during-transfer")
    assert_lossless(figures)
    assert figures["outcome"] == "handoff"
    assert restored(figures) == 8
    assert figures["recomputed"]
    assert figures["path"] == {}, "node 1 lived to report"


def test_source_dies_while_state_moves(tmp_path: Path) -> None:
    figures = run(tmp_path, *LIGHT, "--kill-source-during-transfer", "state", expect=4)
    assert figures["outcome"] == "restore"
    assert figures["equal"] is True
    assert figures["went_back"] == [3, 2]


@pytest.mark.parametrize(("survivor", "layers"), [("0", "[0, 1, 2, 3]"), ("2", "[8, 9, 10, 11]")])
def test_survivor_dies(tmp_path: Path, survivor: str, layers: str) -> None:
    figures = run(tmp_path, *LIGHT, "--kill-survivor", survivor, expect=4)
    assert figures["equal"] is None
    assert figures["lost"]
    told = f"ranks [{survivor}] are gone, and nobody has a copy of their layers {layers}: start the job again"
    # Whoever hears of it later may find that the other one has given up already.
    assert any(told in text for text in figures["lost"])
    assert all("start the job again from the checkpoint after 2 steps" in text for text in figures["lost"])


@pytest.mark.parametrize("source", ["file", "api"])
def test_notice_is_withdrawn(tmp_path: Path, source: str) -> None:
    figures = run(tmp_path, *LIGHT, "--withdraw", "--notice-source", source)
    assert_lossless(figures, owners=UNCHANGED)
    assert figures["outcome"] == "withdrawn"
    assert restored(figures) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--notice", "soon"], "'soon' is no duration; write 5s, 500ms or 2m"),
        (["--link", "fast"], "'fast' is no rate; write 200Mbps, 1Gbps or 25MB/s"),
        (["--withdraw", "--notice-source", "signal"], "a signal can't be taken back"),
        (["--microbatches", "2"], "four at least"),
        (["--notice-step", "5"], "a step of the run"),
        (["--withdraw", "--kill-survivor"], "not allowed with"),
    ],
)
def test_usage(options: list[str], says: str) -> None:
    command = [sys.executable, str(EXAMPLES / "spot_handoff.py"), *SMALL, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr

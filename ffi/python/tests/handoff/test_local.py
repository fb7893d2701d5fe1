"""Every course that a hand-over can take, on threads: what the survivors end up with is what undisturbed training
gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from local_engine import Killed, LocalEngine, LocalWorld
from tiny import LAYERS
from torch import Tensor

from xfer.torch.checkpoint import Checkpoints
from xfer.torch.leaving import Activations, Leave
from xfer.torch.ownership import LayersLost
from xfer.torch.replay import warm_up
from xfer.torch.stage import Stage

pytestmark = pytest.mark.usefixtures("local")

STEPS = 4
OWNERS = [0] * 4 + [1] * 4 + [2] * 4

# Where rank 1 is when its notice comes: step, layer that has just been done, forward or backward, microbatch.
Place = Callable[[Stage], bool]


def at(step: int, forwarded: dict[int, int], backwarded: dict[int, int]) -> Place:
    """When layer n of the rank has run `forwarded[n]` forwards of `step` and `backwarded[n]` backwards."""

    def reached(stage: Stage) -> bool:
        shards = stage.shards
        return all(
            n in shards
            and shards[n].step == step
            and len(shards[n].forwarded) == forwarded.get(n, len(shards[n].forwarded))
            and len(shards[n].backwarded) == backwarded.get(n, len(shards[n].backwarded))
            for n in {*forwarded, *backwarded}
        )

    return reached


BETWEEN_STEPS = at(2, {4: 0, 7: 0}, {4: 0})
IN_FORWARD = at(1, {4: 3, 5: 3, 6: 2, 7: 2}, {4: 1, 7: 1})
IN_BACKWARD = at(1, {4: 3, 7: 3}, {4: 1, 5: 1, 6: 2, 7: 2})
MID_STEP = at(1, {4: 3, 7: 3}, {4: 1, 7: 1})
BEFORE_UPDATE = at(1, {4: 4}, {4: 4, 7: 4})
FIRST_FORWARD = at(0, {4: 1, 5: 0}, {4: 0})
PLACES = {
    "between-steps": BETWEEN_STEPS,
    "forward": IN_FORWARD,
    "backward": IN_BACKWARD,
    "mid-step": MID_STEP,
    "before-update": BEFORE_UPDATE,
    "first-forward": FIRST_FORWARD,
}


class NoticedStage(Stage):
    """Raises the rank's notice when it comes to `place`."""

    place: Place | None = None
    policy: Activations = "ship"
    way: Leave = "stop"
    seconds = 30.0

    def at_safe_point(self) -> None:
        if self.place is not None and self.place(self):
            self.place = None
            self.engine.raise_notice(self.seconds)


class Run:
    """A training run of three ranks, and what happened in it."""

    def __init__(
        self,
        world: LocalWorld,
        places: dict[int, Place],
        checkpoints: Path | None = None,
        steps: int = STEPS,
        owners: list[int] = OWNERS,
    ) -> None:
        self.world = world
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.stages: dict[int, Stage] = {}
        self.tensors: dict[int, dict[str, Tensor]] = {}

        def body(engine: LocalEngine) -> None:
            stage = NoticedStage(
                tiny.pipeline(),
                owners,
                engine,
                checkpoints=None if checkpoints is None else Checkpoints(checkpoints, LAYERS, every=2),
                activations=NoticedStage.policy,
                leave=NoticedStage.way,
                patience_s=20.0,
                observe=lambda what, facts: self.events.append((engine.rank, what, facts)),
            )
            stage.place = places.get(engine.rank)
            self.stages[engine.rank] = stage
            for _ in stage.steps(steps):
                for work, microbatch in stage.schedule():
                    if work == "forward":
                        stage.forward(microbatch)
                    else:
                        stage.backward(microbatch)
                stage.update()
            for layer, shard in stage.shards.items():
                assert layer not in self.tensors, f"two ranks own layer {layer}"
                self.tensors[layer] = tiny.tensors(shard.module, shard.optimizer)

        self.results = world.run(body)

    def succeeded(self, *ranks: int) -> None:
        # The first one to fail is the cause; the others failed because it was gone.
        for rank in self.world.failed:
            if rank in ranks:
                raise AssertionError(f"rank {rank} failed") from self.results[rank]

    def facts(self, what: str) -> list[dict[str, Any]]:
        return [facts for _, name, facts in self.events if name == what]

    def restored(self, how: str) -> set[tuple[int, int]]:
        return {(f["layer"], f["microbatch"]) for f in self.facts("restored") if f["how"] == how}

    def owners(self) -> list[int]:
        return [next(r for r, stage in self.stages.items() if n in stage.shards) for n in range(LAYERS)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("xfer.torch.ownership.NOTICE_WAIT_S", 0.2)
    monkeypatch.setattr("xfer.torch.ownership.LOOK_S", 0.001)
    monkeypatch.setattr("xfer.torch.handoff.LOOK_S", 0.001)
    monkeypatch.setattr("xfer.torch.handoff.BEGIN_S", 0.05)


@pytest.fixture(scope="module")
def reference() -> dict[int, dict[str, Tensor]]:
    torch.set_num_threads(1)
    # What the first graph of a process takes isn't what is tested.
    warm_up()
    return tiny.undisturbed(STEPS)


def assert_equal(found: dict[int, dict[str, Tensor]], expected: dict[int, dict[str, Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for layer, tensors in expected.items():
        assert found[layer].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found[layer][name], tensor), f"layer {layer}: {name} differs"


def test_undisturbed(reference: dict[int, dict[str, Tensor]]) -> None:
    run = Run(LocalWorld(3), {})
    run.succeeded(0, 1, 2)
    assert run.owners() == OWNERS
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("place", PLACES)
def test_everything_arrives(place: str, reference: dict[int, dict[str, Tensor]]) -> None:
    run = Run(LocalWorld(3), {1: PLACES[place]})
    run.succeeded(0, 1, 2)
    assert run.owners() == [0] * 6 + [2] * 6
    assert_equal(run.tensors, reference)
    assert not run.restored("recomputed")
    in_flight = {
        "forward": {(4, 1), (4, 2), (5, 1), (5, 2), (6, 1), (7, 1)},
        "backward": {(4, 1), (4, 2), (5, 1), (5, 2), (6, 2), (7, 2)},
        "mid-step": {(n, m) for n in range(4, 8) for m in (1, 2)},
        "first-forward": {(4, 0)},
    }
    assert run.restored("replayed") == in_flight.get(place, set())


@pytest.mark.parametrize("place", PLACES)
def test_the_step_is_finished_first(
    place: str, reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoticedStage, "way", "overlap")
    run = Run(LocalWorld(3), {1: PLACES[place]})
    run.succeeded(0, 1, 2)
    assert run.owners() == [0] * 6 + [2] * 6
    assert_equal(run.tensors, reference)
    assert not run.facts("restored"), "nothing was in flight"
    step = 0 if place == "first-forward" else 1
    stepped = [layer for facts in run.facts("stepped") if facts["step"] == step for layer in facts["layers"]]
    assert sorted(stepped) == list(range(LAYERS)), "each layer steps once, with whoever owns it then"
    (migration,) = run.world.migrations
    gradients = [name for name in migration.landed if "/gradient/" in name]
    assert bool(gradients) == (place != "between-steps"), "its gradients leave with it"


def test_a_step_that_takes_too_long_is_not_waited_for(
    reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoticedStage, "way", "overlap")
    monkeypatch.setattr(NoticedStage, "seconds", 0.0)
    run = Run(LocalWorld(3), {1: MID_STEP})
    run.succeeded(0, 1, 2)
    assert_equal(run.tensors, reference)
    assert run.restored("replayed"), "it stopped where it was"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["stop", "overlap"])
def test_the_planner_is_asked_where_to_leave(
    way: str, place: str, reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoticedStage, "way", "auto")
    world = LocalWorld(3)
    world.way = way
    run = Run(world, {1: PLACES[place]})
    run.succeeded(0, 1, 2)
    assert run.owners() == [0] * 6 + [2] * 6
    assert_equal(run.tensors, reference)
    (migration,) = world.migrations
    if place in ("between-steps", "before-update"):
        assert migration.left_by == ("stop", "nothing of its part of a step was left to do") and not world.weighed
        return
    assert migration.left_by == (way, "the test says so")
    assert bool(run.restored("replayed")) == (way == "stop")
    # Once, with all that would leave beside the state.
    ((prospects, known),) = world.weighed
    kinds = {prospect.kind for prospect in prospects}
    parameters = sum(1 for _ in tiny.make_layer(4).parameters())
    assert sum(prospect.kind == "gradient" for prospect in prospects) == 4 * parameters
    assert "saved" in kinds, "a forward is in flight"
    assert all(prospect.nbytes > 0 and prospect.target in (0, 2) for prospect in prospects)
    assert known["left_s"] > 0 and known["slowdown"] == 1.5
    if place != "first-forward":
        # By then it was rehearsed often enough to be measured.
        assert known["describe_s"] > 0 and known["stop_meanwhile_s"] + known["stop_after_s"] > 0


def test_the_forecast_is_told_what_each_new_owner_has_to_do(reference: dict[int, dict[str, Tensor]]) -> None:
    run = Run(LocalWorld(3), {1: MID_STEP})
    run.succeeded(0, 1, 2)
    (migration,) = run.world.migrations
    assert [load.rank for load in migration.take_over] == [0, 2]
    for load in migration.take_over:
        assert load.meanwhile_s > 0 and load.after_s > 0 and load.hears_s > 0 and load.busy_s >= 0
        assert load.graph_s > 0 and load.bind_s > 0 and load.again_s > 0
    assert migration.computed_s == {0: 0.0, 2: 0.0}, "all of it came"


def test_new_owners_say_what_they_computed_again(
    reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoticedStage, "policy", "recompute")
    run = Run(LocalWorld(3), {1: MID_STEP})
    run.succeeded(0, 1, 2)
    assert_equal(run.tensors, reference)
    (migration,) = run.world.migrations
    assert migration.computed_s.keys() == {0, 2}
    assert min(migration.computed_s.values()) > 0


def test_forwards_are_described_for_one_new_owner_after_the_other(reference: dict[int, dict[str, Tensor]]) -> None:
    world = LocalWorld(3)
    Run(world, {1: MID_STEP}).succeeded(0, 1, 2)
    (migration,) = world.migrations
    targets = [item.target for item in migration.items.values() if item.kind == "meta"]
    assert targets == [0, 2] * 4, "two forwards in each of two layers for each"


def offered(place: Place) -> list[tuple[str, str, int]]:
    """What rank 1 offers when its notice comes at `place`: names, kinds and bytes, in the order in which they leave."""
    world = LocalWorld(3)
    Run(world, {1: place}).succeeded(0, 1, 2)
    (migration,) = world.migrations
    return [(n, migration.items[n].kind, migration.items[n].memory.nbytes) for n in migration.order]


def test_what_a_new_owner_has_no_room_for_is_not_offered(reference: dict[int, dict[str, Tensor]]) -> None:
    world = LocalWorld(3)
    needed = sum(nbytes for name, kind, nbytes in offered(MID_STEP) if kind != "saved" and kind != "meta")
    # Half of that goes to either; one of them has room for a forward besides, and the other one for none.
    world.room = {0: needed // 2 + 20_000, 2: needed // 2 + 1_000}
    run = Run(world, {1: MID_STEP})
    run.succeeded(0, 1, 2)
    assert_equal(run.tensors, reference)
    assert {layer for layer, _ in run.restored("recomputed")} >= {6, 7}
    (migration,) = world.migrations
    assert migration.outcome is not None and migration.outcome.kind == "handoff"


def test_nothing_was_protected(reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalEngine, "protect", lambda *_: None)
    run = Run(LocalWorld(3), {1: IN_BACKWARD})
    run.succeeded(0, 1, 2)
    assert run.owners() == [0] * 6 + [2] * 6
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("policy", ["cheapest", "recompute"])
def test_activations_are_not_worth_sending(
    policy: str, reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoticedStage, "policy", policy)
    run = Run(LocalWorld(3), {1: IN_BACKWARD})
    run.succeeded(0, 1, 2)
    assert bool(run.restored("recomputed")) == (policy == "recompute")
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("place", ["forward", "backward", "mid-step"])
@pytest.mark.parametrize("tenths", [0, 3, 6, 9])
def test_part_of_the_activations_arrives(place: str, tenths: int, reference: dict[int, dict[str, Tensor]]) -> None:
    items = offered(PLACES[place])
    replaceable = [nbytes for name, _, nbytes in items if "/input." in name or "/saved." in name or "/meta" in name]
    enough = sum(nbytes for _, _, nbytes in items) - sum(replaceable)
    run = Run(LocalWorld(3, link_bytes=enough + sum(replaceable) * tenths // 10), {1: PLACES[place]})
    run.succeeded(0, 1, 2)
    assert_equal(run.tensors, reference)
    in_flight = {(f["layer"], f["microbatch"]) for f in run.facts("restored")}
    assert in_flight == run.restored("recomputed") ^ run.restored("replayed")
    assert run.restored("recomputed")
    if tenths == 0:
        assert not run.restored("replayed")


@pytest.mark.parametrize("missing", ["input.5", "input.6", "input.7", "input.8", "layer.5/meta", "layer.6/saved.3"])
def test_one_thing_does_not_arrive(
    missing: str, reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link of the chain from layer to layer, across the new border too, is made good by whoever can."""
    world = LocalWorld(3)
    offer = world.offer
    monkeypatch.setattr(world, "offer", lambda migration, items: offer(migration, items) or lose(migration))
    lost = []

    def lose(migration: Any) -> None:
        for name in [name for name in migration.landed if name.endswith(f"m2/{missing}")]:
            del migration.landed[name]
            lost.append(name)

    run = Run(world, {1: MID_STEP})
    run.succeeded(0, 1, 2)
    assert_equal(run.tensors, reference)
    # Nobody lacks what went out to rank 2 before the notice.
    assert bool(lost) == (missing != "input.8")
    producer = {"input.5": 4, "input.6": 5, "input.7": 6, "layer.5/meta": 5, "layer.6/saved.3": 6}
    assert run.restored("recomputed") == ({(producer[missing], 2)} if lost else set())


def test_state_without_a_copy_does_not_arrive(reference: dict[int, dict[str, Tensor]], tmp_path: Path) -> None:
    run = Run(LocalWorld(3, link_bytes=2000), {1: at(3, {4: 3}, {4: 1})}, checkpoints=tmp_path)
    run.succeeded(0, 1, 2)
    went_back = run.facts("went back")
    assert [(f["to_step"], f["from_step"]) for f in went_back] == [(2, 3), (2, 3)]
    assert all("layer.4/parameter/norm.weight" not in f["missing"] and f["missing"] for f in went_back)
    assert run.owners() == [0] * 6 + [2] * 6
    assert_equal(run.tensors, reference)


def test_nothing_to_go_back_to() -> None:
    run = Run(LocalWorld(3, link_bytes=2000), {1: MID_STEP})
    assert isinstance(run.results[0], LayersLost) and isinstance(run.results[2], LayersLost)
    assert "there are no checkpoints" in str(run.results[run.world.failed[0]])


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.97])
def test_source_is_killed_during_the_transfer(
    share: float, reference: dict[int, dict[str, Tensor]], tmp_path: Path
) -> None:
    total = sum(nbytes for _, _, nbytes in offered(MID_STEP))
    world = LocalWorld(3, kill_source_at_bytes=int(share * total))
    run = Run(world, {1: MID_STEP}, checkpoints=tmp_path)
    run.succeeded(0, 2)
    # Before the cut nobody knows how far it was, so the work since the checkpoint is lost, and done again.
    assert {facts["kind"] for facts in run.facts("followed")} == {"restore"}
    assert_equal(run.tensors, reference)


def test_source_is_killed_after_the_cut(reference: dict[int, dict[str, Tensor]]) -> None:
    world = LocalWorld(3, kill_source_after_cut=True)
    run = Run(world, {1: MID_STEP})
    run.succeeded(0, 2)
    assert {facts["kind"] for facts in run.facts("followed")} == {"handoff"}
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("withdraw_at", ["notice", "offer", "cut"])
def test_notice_is_withdrawn(place: str, withdraw_at: str, reference: dict[int, dict[str, Tensor]]) -> None:
    run = Run(LocalWorld(3, withdraw_at=withdraw_at), {1: PLACES[place]})
    run.succeeded(0, 1, 2)
    assert run.owners() == OWNERS
    assert_equal(run.tensors, reference)
    assert not run.restored("replayed") | run.restored("recomputed")
    assert {facts["kind"] for facts in run.facts("followed")} == {"withdrawn"}


def test_survivor_is_killed(tmp_path: Path) -> None:
    run = Run(LocalWorld(3, kill_target_at_cut=0), {1: MID_STEP}, checkpoints=tmp_path)
    assert [type(result) for result in run.results] == [Killed, LayersLost, LayersLost]
    told = str(run.results[run.world.failed[0]])
    assert "ranks [0] are gone, and nobody has a copy of their layers [0, 1, 2, 3]" in told
    assert "start the job again from the checkpoint after 0 steps" in told


def test_death_without_a_notice() -> None:
    def die(stage: Stage) -> bool:
        if MID_STEP(stage):
            stage.engine.world.kill(1)
            stage.engine.check()
        return False

    run = Run(LocalWorld(3), {1: die})
    assert [type(result) for result in run.results] == [LayersLost, Killed, LayersLost]
    told = str(run.results[run.world.failed[0]])
    assert "nobody has a copy of their layers [4, 5, 6, 7]: start the job again from its beginning" in told


@pytest.mark.parametrize("leaving", [0, 2])
def test_an_end_of_the_pipeline_leaves(leaving: int, reference: dict[int, dict[str, Tensor]]) -> None:
    first = 4 * leaving
    run = Run(LocalWorld(3), {leaving: at(1, {first: 2}, {first: 1 if leaving == 2 else 0})})
    run.succeeded(0, 1, 2)
    assert run.owners() == ([1] * 8 + [2] * 4 if leaving == 0 else [0] * 4 + [1] * 8)
    assert run.restored("replayed")
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("first", ["forward", "backward", "mid-step"])
@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("leaving", [0, 2])
def test_one_leaves_after_another(
    first: str, everything: bool, leaving: int, reference: dict[int, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LocalWorld(3)
    if not everything:
        offer = world.offer

        def lossy(migration: Any, items: Any) -> None:
            offer(migration, items)
            for item in items:
                if item.recompute_s is not None and len(item.name) % 3:
                    migration.landed.pop(item.name, None)

        monkeypatch.setattr(world, "offer", lossy)

    def right_after(stage: Stage) -> bool:
        return len(stage.shards) == 6

    run = Run(world, {1: PLACES[first], leaving: right_after})
    run.succeeded(0, 1, 2)
    assert run.owners() == [2 - leaving] * LAYERS
    assert bool(run.restored("recomputed")) != everything
    assert_equal(run.tensors, reference)


@pytest.mark.parametrize("leaving", [(1, 2), (0, 1), (1, 3), (1, 2, 3)])
def test_several_leave_at_once(leaving: tuple[int, ...], reference: dict[int, dict[str, Tensor]]) -> None:
    world = LocalWorld(5)
    owners = [0] * 3 + [1] * 2 + [2] * 2 + [3] * 2 + [4] * 3
    reached = at(1, {owners.index(leaving[0]): 2}, {})

    def all_hear_of_it(stage: Stage) -> bool:
        if reached(stage):
            for rank in leaving[1:]:
                world.engines[rank].raise_notice(30.0)
        return reached(stage)

    run = Run(world, {leaving[0]: all_hear_of_it}, owners=owners)
    run.succeeded(0, 1, 2, 3, 4)
    assert set(run.owners()) == {0, 1, 2, 3, 4} - set(leaving)
    assert_equal(run.tensors, reference)
    # Nobody was given what he would have had to give away again.
    taken = [m for m in world.migrations if m.outcome is not None and m.outcome.kind == "handoff"]
    assert len(taken) == len(leaving)
    assert not set().union(*(m.targets for m in taken)) & set(leaving)


@pytest.mark.parametrize("first", ["forward", "mid-step"])
def test_a_bystander_takes_over_next(first: str, reference: dict[int, dict[str, Tensor]]) -> None:
    places = {"forward": at(1, {0: 2, 3: 1}, {0: 0}), "mid-step": at(1, {0: 3}, {0: 1})}
    run = Run(LocalWorld(3), {0: places[first], 1: lambda stage: len(stage.shards) == 8})
    run.succeeded(0, 1, 2)
    assert run.owners() == [2] * LAYERS
    assert_equal(run.tensors, reference)
    followed = [(rank, f["generation"]) for rank, what, f in run.events if what == "followed"]
    assert followed == [(1, 1), (2, 1), (2, 2)]


def test_the_last_rank_stays() -> None:
    run = Run(LocalWorld(3), {1: at(1, {4: 1}, {}), 0: at(2, {5: 1}, {}), 2: at(3, {0: 1}, {})})
    run.succeeded(0, 1, 2)
    assert run.owners() == [2] * LAYERS
    assert len(run.world.migrations) == 2

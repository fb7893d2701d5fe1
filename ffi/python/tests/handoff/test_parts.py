"""The parts of a hand-over by themselves: who inherits, what travels under which name, what a checkpoint holds, in
which order work is done."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from xfer import StoreLost
from xfer.torch import codec, record
from xfer.torch.checkpoint import CheckpointError, Checkpoints, read_tensors, write_tensors
from xfer.torch.departures import Departures
from xfer.torch.errors import WireError
from xfer.torch.garbage import Collector, Pause, paused
from xfer.torch.handoff import by_layer, by_shard, check_owners, heirs
from xfer.torch.in_flight import InFlight
from xfer.torch.memory import is_dense, lend, shaped, view
from xfer.torch.ownership import Decision
from xfer.torch.pace import Again, Handling, Middle, StepClock, Took, Work, reading, since
from xfer.torch.record import Cursor
from xfer.torch.rng import LayerRng
from xfer.torch.schedule import one_forward_one_backward
from xfer.torch.shard import Shard


class TestHeirs:
    @pytest.mark.parametrize(
        ("owners", "leaving", "targets", "after"),
        [
            ([0, 0, 1, 1, 2, 2], 1, [0, 2], [0, 0, 0, 2, 2, 2]),
            ([0, 1, 1, 1, 2], 1, [0, 2], [0, 0, 0, 2, 2]),
            ([0, 1, 2], 1, [0], [0, 0, 2]),
            ([0, 0, 1, 1], 0, [1], [1, 1, 1, 1]),
            ([0, 0, 1, 1], 1, [0], [0, 0, 0, 0]),
            ([2, 0, 1], 0, [2], [2, 2, 1]),
            ([0, 0], 0, [], [0, 0]),
            ([0, 0], 7, [], [0, 0]),
        ],
    )
    def test_neighbours_get_half_each(
        self, owners: list[int], leaving: int, targets: list[int], after: list[int]
    ) -> None:
        assert heirs(owners, leaving) == (targets, after)
        check_owners(after, len(owners))

    def test_nobody_inherits_who_leaves_too(self) -> None:
        owners = [0, 0, 1, 1, 2, 2, 3, 3]
        assert heirs(owners, 1, {2}) == ([0], [0, 0, 0, 0, 2, 2, 3, 3])
        assert heirs(owners, 2, {1}) == ([3], [0, 0, 1, 1, 3, 3, 3, 3])
        assert heirs(owners, 1, {0, 2}) == ([], owners)
        assert heirs(owners, 1, {3}) == heirs(owners, 1)

    def test_owners_travel_by_name(self) -> None:
        assert by_layer(by_shard([0, 0, 2]), 3) == [0, 0, 2]
        with pytest.raises(Exception, match="of 2 layers, this job has 3"):
            by_layer(by_shard([0, 1]), 3)
        with pytest.raises(WireError, match="name of no layer"):
            by_layer({"layer.x": 0}, 1)

    def test_a_rank_has_one_run_of_layers(self) -> None:
        with pytest.raises(ValueError, match="next to each other"):
            check_owners([0, 1, 0], 3)
        with pytest.raises(ValueError, match="2 owners for 3 layers"):
            check_owners([0, 1], 3)


class TestSchedule:
    @pytest.mark.parametrize("stages", [1, 2, 3, 5])
    @pytest.mark.parametrize("microbatches", [1, 2, 4, 7])
    def test_every_position_does_everything_in_the_order_of_microbatches(self, stages: int, microbatches: int) -> None:
        for position in range(stages):
            work = list(one_forward_one_backward(position, stages, microbatches))
            assert [m for kind, m in work if kind == "forward"] == list(range(microbatches))
            assert [m for kind, m in work if kind == "backward"] == list(range(microbatches))
            for microbatch in range(microbatches):
                assert work.index(("forward", microbatch)) < work.index(("backward", microbatch))

    def test_the_middle_of_three(self) -> None:
        work = [f"{kind[0]}{m}" for kind, m in one_forward_one_backward(1, 3, 4)]
        assert work == ["f0", "f1", "b0", "f2", "b1", "f3", "b2", "b3"]


class TestPace:
    def test_the_middle_of_the_latest_is_not_moved_by_one_that_was_disturbed(self) -> None:
        middle = Middle()
        assert (middle.seconds, middle.count) == (0.0, 0)
        for seconds in (1.0, 1.0, 90.0):
            middle.note(seconds)
        assert middle.seconds == 1.0
        for _ in range(9):
            middle.note(2.0)
        assert (middle.seconds, middle.count) == (2.0, 9)

    def test_a_quarter_is_higher(self) -> None:
        middle = Middle()
        for seconds in (8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0):
            middle.note(seconds)
        assert (middle.least, middle.seconds, middle.high) == (1.0, 4.5, 7.0)

    def test_memory_that_is_touched_first_shows(self) -> None:
        began = reading()
        pages = torch.zeros(1 << 24, dtype=torch.uint8)
        took = since(began)
        assert took.faults > 0 and took.wall_s > 0 and took.own_s > 0, pages.numel()

    def test_a_forward_that_runs_again_is_between_those_that_made_their_memory_and_the_others(self) -> None:
        again = Again(Middle())
        assert (again.seconds, again.slower) == (0.0, 1.0), "nothing is known"
        again.note(Took(1.0, 3.0, 0))
        assert again.seconds == 3.0, "no other kind was seen"
        for own_s, faults in ((5.0, 1000), (5.0, 900), (3.0, 10), (3.0, 0), (3.0, 400)):
            again.note(Took(own_s, own_s, faults))
        assert (again.seconds, again.slower) == (4.0, 1.25)

    def test_new_owners_work_as_quickly_as_the_least_disturbed_forward(self) -> None:
        slowness = Middle()
        work = Work(slowness)
        work.note(2.0)
        for factor in (3.0, 3.0, 1.5, 3.0):
            slowness.note(factor)
        assert work.seconds == 3.0
        for _ in range(9):
            slowness.note(2.0)
        assert work.seconds == 4.0, "that is how it was, and isn't any more"

    def test_what_fails_was_not_measured(self) -> None:
        work = Work(Middle())
        with pytest.raises(ZeroDivisionError), work.timed():
            1 / 0
        assert work.count == 0

    def test_work_takes_longer_where_forwards_do(self) -> None:
        slowness = Middle()
        work = Work(slowness)
        with work.timed():
            sum(range(100_000))
        alone_s = work.seconds
        assert alone_s > 0, "of forwards nothing is known"
        slowness.note(3.0)
        assert work.seconds == 3 * alone_s
        slowness.note(0.5)
        slowness.note(0.5)
        assert work.seconds == alone_s, "nothing is quicker than its own time"

    def test_a_step_that_goes_on_is_not_begun_again(self) -> None:
        clock = StepClock()
        clock.begin(0)
        done_s = clock.done_s
        clock.begin(0)
        assert clock.done_s >= done_s
        assert clock.left_s == 0.0, "nothing is known of a first step"
        clock.end()
        assert clock.whole_s >= done_s

    def test_a_rehearsal_measures_both_halves_of_a_replay_and_leaves_the_forward_as_it_was(self) -> None:
        layer, in_flight, handling = tiny.make_layer(3), InFlight("layer.3"), Handling()
        given, _ = tiny.make_batch(0, 0)
        in_flight.run(layer, given, LayerRng(0, 3))
        assert in_flight.rehearse(layer, handling) == ""
        assert (handling.graph.count, handling.bind.count) == (1, 1)
        assert handling.replay_s == handling.graph.seconds + handling.bind.seconds > 0
        same, other = tiny.make_layer(3), InFlight("layer.3")
        other.run(same, given, LayerRng(0, 3))
        for ran, module in ((in_flight, layer), (other, same)):
            ran.backward(module, torch.ones_like(given))
        for ours, theirs in zip(layer.parameters(), same.parameters(), strict=True):
            assert torch.equal(_grad(ours), _grad(theirs))


class TestDepartures:
    class Store:
        """What departures need of an engine."""

        def __init__(self, rank: int, kept: dict[str, bytes]) -> None:
            self.rank = rank
            self.kept = kept
            self.lost = False

        def store_get(self, key: str) -> bytes | None:
            if self.lost:
                raise StoreLost("no store")
            return self.kept.get(key)

        def store_create(self, key: str, value: bytes) -> bool:
            if self.lost:
                raise StoreLost("no store")
            return self.kept.setdefault(key, value) is value

    def test_everybody_hears_who_leaves_and_who_stays_after_all(self) -> None:
        kept: dict[str, bytes] = {}
        one, other, third = (Departures(self.Store(rank, kept)) for rank in (1, 2, 3))  # type: ignore[arg-type]
        one.say(False)
        assert not kept, "that is no news"
        one.say(True)
        other.say(True)
        assert (one.others(), other.others(), third.others()) == ({2}, {1}, {1, 2})
        one.say(False)
        assert (other.others(), third.others()) == (set(), {2})
        kept["xfer.torch/departures/3"] = b"nonsense"
        third.say(True)
        assert other.others() == {3}

    def test_a_store_that_is_lost_is_asked_again(self) -> None:
        kept: dict[str, bytes] = {}
        store, other = self.Store(1, kept), Departures(self.Store(2, kept))  # type: ignore[arg-type]
        leaving = Departures(store)  # type: ignore[arg-type]
        store.lost = True
        leaving.say(True)
        assert (leaving.others(), other.others()) == (set(), set())
        store.lost = False
        leaving.say(True)
        assert other.others() == {1}


class TestGarbage:
    @pytest.fixture(autouse=True)
    def _enabled(self) -> Iterator[None]:
        # Whatever other tests have left behind.
        was_enabled = gc.isenabled()
        gc.enable()
        yield
        if not was_enabled:
            gc.disable()

    def test_the_collector_rests_as_long_as_anybody_wants_it_to(self) -> None:
        collector = Collector()
        first, second = Pause(collector=collector), Pause(collector=collector)
        first.end()
        first.end()
        assert not gc.isenabled(), "the other one isn't over"
        second.end()
        assert gc.isenabled()

    def test_a_pause_ends_at_its_limit_by_itself(self) -> None:
        ended = threading.Event()

        class Watched(Collector):
            def work(self) -> None:
                super().work()
                ended.set()

        pause = Pause(limit_s=0.01, collector=Watched())
        assert ended.wait(30)
        assert gc.isenabled()
        pause.end()
        assert gc.isenabled()

    def test_who_has_none_gets_none(self) -> None:
        gc.disable()
        try:
            with paused():
                pass
            assert not gc.isenabled()
        finally:
            gc.enable()


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


CURSOR = Cursor(3, {0, 1, 2}, {0}, b"described", 0.25, {1: "is-"})


class TestRecord:
    def test_round_trip(self) -> None:
        assert record.decode(record.encode({4: CURSOR}), microbatches=3) == {4: CURSOR}

    def test_names(self) -> None:
        assert record.boundary_of(record.input_name(3, 2, 5)) == ("input", 3, 2, 5)
        assert record.boundary_of(record.gradient_name(3, 2, 5)) == ("gradient", 3, 2, 5)
        assert record.layer_of(record.shard_name(11)) == 11
        assert record.layer_of_state(record.state_name(11, "parameter/weight")) == 11
        assert record.layer_of_state(record.forward_name(1, 2, 11, "meta")) is None
        for name in ("s3/m2/input", "s3/m2/input.5x", "layer.5/rng", "s3/m2/gradient.-1", "s٣/m2/input.1"):
            with pytest.raises(WireError):
                record.boundary_of(name)

    @pytest.mark.parametrize(
        "change",
        [
            {"step": -1},
            {"step": "3"},
            {"forwarded": [0, 3]},
            {"forwarded": 3},
            {"forwarded": [0], "backwarded": [1]},
            {"saved": {0: "s"}},
            {"saved": {1: "sx"}},
            {"saved": {1: 3}},
            {"forward_s": 1},
            {"optimizer": "text"},
            {"more": 1},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, change: dict[str, object]) -> None:
        whole = codec.decode(record.encode({4: CURSOR}))
        whole["layers"][4] |= change
        with pytest.raises(WireError):
            record.decode(codec.encode(whole), microbatches=3)

    def test_other_versions_are_refused(self) -> None:
        with pytest.raises(WireError, match="version 1"):
            record.decode(codec.encode({"version": 2, "layers": {}}), microbatches=3)

    def test_decision(self) -> None:
        decision = Decision("restore", 3, 1, {"layer.0": 0}, ["layer.4/rng"], "too slow")
        assert Decision.decode(decision.encode()) == decision
        with pytest.raises(WireError):
            Decision.decode(codec.encode({"kind": "restore"}))


LAYOUTS = [
    torch.arange(24.0).view(2, 3, 4),
    torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    torch.arange(24.0).view(2, 3, 4)[:, 1:],
    torch.arange(2.0)[:, None].expand(2, 3),
    torch.tensor(5.0),
    torch.arange(6, dtype=torch.bfloat16).view(1, 6, 1),
    torch.tensor([True, False]),
]


class TestMemory:
    @pytest.mark.parametrize("tensor", LAYOUTS)
    def test_bytes_come_back_in_the_layout_they_left_in(self, tensor: Tensor) -> None:
        memory = lend(tensor)
        assert memory.nbytes == tensor.nbytes
        back = shaped(view(memory), tensor)
        assert torch.equal(back, tensor)
        if is_dense(tensor):
            assert back.stride() == tensor.stride()
            assert back.data_ptr() == tensor.data_ptr()

    def test_lent_memory_outlives_its_tensor(self) -> None:
        memory = lend(torch.full((1000,), 7.0))
        torch.full((1000,), 8.0)
        assert view(memory).view(torch.float32).eq(7.0).all()

    def test_sizes_must_agree(self) -> None:
        with pytest.raises(ValueError, match="8 bytes came for a tensor of 12"):
            shaped(torch.zeros(8, dtype=torch.uint8), torch.zeros(3))

    def test_only_host_memory_is_lent(self) -> None:
        with pytest.raises(ValueError, match="a tensor on meta can't be lent"):
            lend(torch.empty(3, device="meta"))


TENSORS = {
    "weight": torch.arange(6.0).view(2, 3),
    "half": torch.arange(4, dtype=torch.bfloat16),
    "count": torch.tensor(3, dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
    "mixed": torch.arange(6.0).view(2, 3).t(),
}


class TestCheckpoint:
    def test_round_trip(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "file", TENSORS)
        found = read_tensors(tmp_path / "file")
        assert found.keys() == TENSORS.keys()
        assert all(
            torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
        )
        assert [path.name for path in tmp_path.iterdir()] == ["file"], "a partial file was left"

    def test_the_format_is_that_of_safetensors(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "file", {"a": torch.tensor([1.0, 2.0])})
        header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        header += b" " * (-len(header) % 8)
        expected = len(header).to_bytes(8, "little") + header + bytes.fromhex("0000803f00000040")
        assert (tmp_path / "file").read_bytes() == expected

    @pytest.mark.parametrize(
        "header",
        [
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
            b'{"a":{"dtype":"PICKLE","shape":[2],"data_offsets":[0,8]}}',
            b'{"a":{"shape":[2]}}',
            b'{"a":3}',
            b"{",
        ],
    )
    def test_damage_is_named(self, tmp_path: Path, header: bytes) -> None:
        (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(CheckpointError):
            read_tensors(tmp_path / "file")

    def test_a_length_is_not_believed(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes((1 << 60).to_bytes(8, "little"))
        with pytest.raises(CheckpointError, match="cut short"):
            read_tensors(tmp_path / "file")

    def test_only_whole_checkpoints_count(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, layers=2, every=2)
        assert [step for step in range(5) if checkpoints.due(step)] == [0, 2, 4]
        assert checkpoints.complete() == []
        for step in (0, 2):
            for layer in (0, 1):
                checkpoints.save(step, layer, {"x": torch.tensor(10 * step + layer)})
        checkpoints.save(4, 0, {"x": torch.tensor(40)})
        assert checkpoints.complete() == [0, 2]
        assert checkpoints.load(2, 1)["x"].item() == 21
        with pytest.raises(CheckpointError, match="layer 1 after 4 steps"):
            checkpoints.load(4, 1)

    def test_two_are_kept(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, layers=1)
        for step in range(5):
            checkpoints.save(step, 0, {"x": torch.tensor(step)})
        assert checkpoints.complete() == [3, 4]


def shard() -> Shard:
    module = tiny.make_layer(0)
    return Shard(0, module, tiny.make_optimizer(module.parameters()), LayerRng(0, 0))


def train(trained: Shard, steps: int) -> None:
    for _ in range(steps):
        x, target = tiny.make_batch(trained.step, 0)
        with trained.rng.installed():
            nn.functional.mse_loss(trained.module(x), target).backward()
        trained.optimizer.step()
        trained.optimizer.zero_grad(set_to_none=True)
        trained.go_to(trained.step + 1)


class TestShard:
    def test_goes_on_from_a_snapshot_as_if_nothing_had_been(self, tmp_path: Path) -> None:
        straight, restored = shard(), shard()
        train(straight, 2)
        write_tensors(tmp_path / "file", straight.snapshot())
        train(restored, 5)
        restored.go_back(2, read_tensors(tmp_path / "file"))
        assert restored.step == 2
        train(straight, 2)
        train(restored, 2)
        expected = tiny.tensors(straight.module, straight.optimizer)
        found = tiny.tensors(restored.module, restored.optimizer)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    def test_adopted_parameters_live_in_the_bytes_that_came(self) -> None:
        source, target = shard(), shard()
        train(source, 1)
        pieces = {
            piece.path: bytearray(bytes(view(lend(piece.tensor)).numpy()))
            for piece in (*source.lasting(), *source.passing())
        }
        came = {path: torch.frombuffer(data, dtype=torch.uint8) for path, data in pieces.items()}
        parameters = dict(target.module.named_parameters())
        target.load(came, source.cursor().optimizer)
        target.go_to(source.step)
        assert dict(target.module.named_parameters()) == parameters, "the module has other parameters now"
        weight = target.module.norm.weight
        assert weight.data_ptr() == came["parameter/norm.weight"].data_ptr()
        train(source, 2)
        train(target, 2)
        expected = tiny.tensors(source.module, source.optimizer)
        assert all(
            torch.equal(tensor, expected[name])
            for name, tensor in tiny.tensors(target.module, target.optimizer).items()
        )

    def test_a_missing_parameter_is_named(self) -> None:
        source, target = shard(), shard()
        came = {piece.path: piece.tensor for piece in source.passing()}
        with pytest.raises(ValueError, match=r"parameter/norm\.weight did not come"):
            target.load(came, source.cursor().optimizer)


def test_the_terminal_shows_colours_to_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples"))
    from spot.figures import Figures
    from spot.model import Config
    from spot.node import Plan
    from spot.terminal import Terminal

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    plan = Plan(
        config=Config(),
        owners=[0, 1, 2],
        steps=1,
        notice_step=0,
        notice_at="mid-step",
        notice_source="signal",
        deadline_s=5.0,
        link_bytes_per_s=None,
        activations="ship",
        leave="stop",
        checkpoint_every=1,
        watch_transfer=False,
        wants_manifest=False,
        folder=Path(),
    )
    monkeypatch.delenv("NO_COLOR", raising=False)
    for environment, seen in (({}, True), ({"NO_COLOR": "1"}, False)):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        screen = Screen()
        terminal = Terminal(screen, plan)
        terminal.begin()
        terminal.finish(Figures(), True, 3, "fine", 0)
        assert "all equal" in screen.getvalue()
        assert ("\x1b[" in screen.getvalue()) == seen

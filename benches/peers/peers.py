"""What others move between two processes of this machine, in turn with xfer: `make bench-peers`.

Each peer is a pair of processes that stay. A round moves some buffers of one size from one process into memory of the other, one
after the other, each confirmed, after as many that don't count; the rounds of all peers follow each other, so that whatever else the
machine does hits all alike. Whose turn it isn't is stopped (SIGSTOP) meanwhile: some of them spin whether they have something to do or
not, and would be measured beside all others. What isn't installed, or doesn't start here, is a sentence below the table.

    python peers.py XFER_BENCH [--sizes-kib N,N,...] [--rounds N] [--only NAME,NAME] [--ucx-put PROGRAM]

UCX spins at both ends and has no checksums. Its puts into memory are measured by ucx_put.c, until a flush says that they have arrived, as
long as its programs can be built here. Below the table of sizes stands one of 8 bytes one way, half a round trip in which nothing is
confirmed but by its answer: there UCX is measured by its own ucx_perftest.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

ROUND_BYTES = 64 << 20
PATIENCE_S = 60.0


def iterations(size: int) -> int:
    """How often a round moves a buffer: enough to be timed, and two of the largest."""
    return max(2, min(200, ROUND_BYTES // size))


class Wire:
    """A plain socket between the two processes of a pair, for what has to be agreed on."""

    def __init__(self, port: int, is_sender: bool) -> None:
        if is_sender:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    self.stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.01)
        else:
            with socket.create_server(("127.0.0.1", port)) as listener:
                self.stream, _ = listener.accept()
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, data: bytes) -> None:
        self.stream.sendall(len(data).to_bytes(8, "little") + data)

    def hear(self) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(8), "little"))

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count > 0:
            part = self.stream.recv(count)
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


Move = Callable[[int], None]


def gloo(wire: Wire, port: int, is_sender: bool) -> Move:
    """`torch.distributed` over its TCP transport."""
    import torch
    import torch.distributed as dist

    # One address for both, and no look-up of the machine's name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0 if is_sender else 1, world_size=2)
    done = torch.zeros(1, dtype=torch.uint8)
    buffers: dict[int, torch.Tensor] = {}

    def move(size: int) -> None:
        buffer = buffers.setdefault(size, torch.ones(size, dtype=torch.uint8))
        if is_sender:
            dist.send(buffer, 1)
            dist.recv(done, 1)
        else:
            dist.recv(buffer, 0)
            dist.send(done, 0)

    return move


def zeromq(wire: Wire, port: int, is_sender: bool) -> Move:
    """One message after the other over TCP, copied to where it belongs."""
    import zmq

    endpoint = zmq.Context().socket(zmq.PAIR)
    if is_sender:
        endpoint.connect(f"tcp://127.0.0.1:{port}")
    else:
        endpoint.bind(f"tcp://127.0.0.1:{port}")
    buffers: dict[int, bytearray] = {}

    def move(size: int) -> None:
        buffer = buffers.setdefault(size, bytearray(size))
        if is_sender:
            endpoint.send(buffer, copy=False)
            endpoint.recv()
        else:
            buffer[:] = endpoint.recv(copy=False).buffer
            endpoint.send(b"")

    return move


def nixl(wire: Wire, port: int, is_sender: bool) -> Move:
    """One-sided writes of NIXL over UCX, which picks its own way within a machine."""
    import torch
    try:
        from nixl._api import nixl_agent, nixl_agent_config
    except ModuleNotFoundError:
        # The package without the one that only chooses between versions of CUDA.
        from nixl_cu12._api import nixl_agent, nixl_agent_config

    name = "sender" if is_sender else "receiver"
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    known: dict[int, object] = {}
    peer = ""

    def prepare(size: int) -> object:
        nonlocal peer
        buffer = torch.ones(size, dtype=torch.uint8)
        agent.register_memory([buffer])
        local = agent.get_xfer_descs([buffer])
        wire.say(agent.get_agent_metadata())
        found = agent.add_remote_agent(wire.hear())
        peer = found.decode() if isinstance(found, bytes) else found
        wire.say(agent.get_serialized_descs(local))
        remote = agent.deserialize_descs(wire.hear())
        handle = agent.initialize_xfer("WRITE", local, remote, peer, b"") if is_sender else None
        return buffer, handle

    def move(size: int) -> None:
        if size not in known:
            known[size] = prepare(size)
        if not is_sender:
            return
        _, handle = known[size]
        state = agent.transfer(handle)
        while state != "DONE":
            if state == "ERR":
                raise RuntimeError("NIXL says ERR")
            state = agent.check_xfer_state(handle)

    return move


def mooncake(wire: Wire, port: int, is_sender: bool) -> Move:
    """One-sided writes of Mooncake's transfer engine over TCP."""
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
        raise RuntimeError("the engine doesn't start")
    wire.say(f"127.0.0.1:{engine.get_rpc_port()}".encode())
    peer = wire.hear().decode()
    known: dict[int, tuple[object, int, int]] = {}

    def prepare(size: int) -> tuple[object, int, int]:
        buffer = (ctypes.c_char * size)()
        ctypes.memset(buffer, 1, size)
        address = ctypes.addressof(buffer)
        if engine.register_memory(address, size) != 0:
            raise RuntimeError("the memory isn't registered")
        wire.say(address.to_bytes(8, "little"))
        return buffer, address, int.from_bytes(wire.hear(), "little")

    def move(size: int) -> None:
        if size not in known:
            known[size] = prepare(size)
        _, ours, theirs = known[size]
        if is_sender and engine.transfer_sync_write(peer, ours, theirs, size) != 0:
            raise RuntimeError("a write failed")

    return move


# What each runs with: UCX takes the best way that it has, or TCP alone.
PEERS: dict[str, tuple[Callable[[Wire, int, bool], Move], dict[str, str]]] = {
    "Gloo tcp": (gloo, {}),
    "ZeroMQ tcp": (zeromq, {}),
    "NIXL tcp": (nixl, {"UCX_TLS": "tcp"}),
    "NIXL": (nixl, {}),
    "Mooncake tcp": (mooncake, {}),
}

# What UCX puts by itself, and how: NIXL above is over it too.
UCX: dict[str, str] = {"UCX put tcp": "tcp", "UCX put shm": "shm"}

# As it is, and with ends that spin for as long as UCX's take to answer.
LOOKS = ["--busy-poll", "50"]
XFER: dict[str, list[str]] = {
    "xfer tcp": ["--transport", "tcp"],
    "xfer tcp, looks": ["--transport", "tcp", *LOOKS],
    "xfer shm": ["--transport", "shm"],
    "xfer arena": ["--transport", "shm", "--mem", "shared"],
    "xfer arena, looks": ["--transport", "shm", "--mem", "shared", *LOOKS],
}

# 8 bytes one way: by whom, and with which arguments. UCX spins; so does xfer where it is told to look.
LATENCIES: dict[str, tuple[str, list[str]]] = {
    "UCX tag tcp": ("tcp", ["-t", "tag_lat"]),
    "UCX put tcp, 1 way": ("tcp", ["-t", "ucp_put_lat"]),
    "UCX tag shm": ("shm", ["-t", "tag_lat"]),
    "xfer tcp": ("", ["--transport", "tcp"]),
    "xfer tcp, looks": ("", ["--transport", "tcp", *LOOKS]),
    "xfer shm": ("", ["--transport", "shm"]),
    "xfer shm, looks": ("", ["--transport", "shm", *LOOKS, "--pin-cores", "0,1"]),
}


def ucx_environment(transports: str) -> tuple[str, dict[str, str]]:
    """Where UCX lies, and what a program of it needs to know."""
    import libucx

    root = os.path.dirname(libucx.__file__)
    libraries = {"LD_LIBRARY_PATH": f"{root}/lib", "UCX_MODULE_DIR": f"{root}/lib/ucx"}
    return root, os.environ | libraries | {"UCX_TLS": transports, "UCX_WARN_UNUSED_ENV_VARS": "n"}


def ucx(transports: str, size: int, iters: int, arguments: list[str]) -> float:
    """Seconds one way, the median of a run of ucx_perftest."""
    root, environment = ucx_environment(transports)
    program = f"{root}/bin/ucx_perftest"
    os.chmod(program, 0o755)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    server = subprocess.Popen([program, "-p", port], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for_listener(int(port))
        command = [program, "127.0.0.1", "-p", port, "-s", str(size), "-n", str(iters), "-w", "10", "-f", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        words = done.stdout.splitlines()[-1].split() if done.stdout else []
        if done.returncode or not words or words[0] != str(iters):
            raise RuntimeError((done.stderr or done.stdout or "it ended without a word").strip().splitlines()[-1])
        return float(words[1]) / 1e6
    finally:
        server.kill()
        server.wait()


def wait_for_listener(port: int) -> None:
    """Until somebody listens there, as the system's table says: a call would be taken for the client's."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with open("/proc/net/tcp") as table:
            if any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table):
                return
        time.sleep(0.01)
    raise RuntimeError("ucx_perftest doesn't listen")


def serve(name: str, port: int, is_sender: bool) -> None:
    """One process of a pair: does a round for each line that it is told, and the sender says how long it took."""
    make, _ = PEERS[name]
    wire = Wire(port, is_sender)
    move = make(wire, port + 1, is_sender)
    for line in sys.stdin:
        size, warm, count = map(int, line.split())
        for _ in range(warm):
            move(size)
        started = time.perf_counter()
        for _ in range(count):
            move(size)
        print(f"took {time.perf_counter() - started}", flush=True)


class Pair:
    """Both processes of a peer, which are stopped unless it is their turn."""

    def __init__(self, name: str, ucx_put: str) -> None:
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        if name in UCX:
            command, environment = [ucx_put, port], ucx_environment(UCX[name])[1]
        else:
            command, environment = [sys.executable, __file__, "--serve", name, port], os.environ | PEERS[name][1]
        self.logs = [open(f"/tmp/xfer-peers-{os.getpid()}-{port}-{end}", "w+") for end in range(2)]
        self.ends = [
            subprocess.Popen(
                [*command, role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # A group of its own: what it may start is stopped along with it.
                process_group=0,
            )
            for role, log in zip(("receiver", "sender"), self.logs)
        ]
        # A process that is stopped outlives whoever forgets it.
        atexit.register(self.end)

    def round(self, size: int) -> float:
        """Seconds that a buffer takes in a round."""
        count = iterations(size)
        # Some wait for each other for ever where one of them has not come up.
        patience = threading.Timer(PATIENCE_S, self._signal, [signal.SIGKILL])
        patience.start()
        try:
            self._signal(signal.SIGCONT)
            for end in self.ends:
                assert end.stdin
                end.stdin.write(f"{size} {count} {count}\n")
                end.stdin.flush()
            took = [self._took(end) for end in self.ends]
        finally:
            patience.cancel()
        self._signal(signal.SIGSTOP)
        return took[1] / count

    def _signal(self, number: signal.Signals) -> None:
        for end in self.ends:
            # Its number is its own until it has been waited for.
            if end.returncode is None:
                os.killpg(end.pid, number)

    def _took(self, end: subprocess.Popen[str]) -> float:
        assert end.stdout
        for line in end.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise RuntimeError(self.why())

    def why(self) -> str:
        """The last thing that an end said before it was over."""
        lines = []
        for log in self.logs:
            log.seek(0)
            lines += [line.strip() for line in log if line.strip()]
        return lines[-1] if lines else "it ended without a word"

    def end(self) -> None:
        atexit.unregister(self.end)
        self._signal(signal.SIGKILL)
        for end, log in zip(self.ends, self.logs):
            end.wait()
            log.close()
            os.unlink(log.name)


def xfer(program: str, arguments: list[str], size: int) -> float:
    """Seconds that xfer takes for one buffer, applied and verified."""
    count = str(iterations(size))
    command = [program, "--loopback", "-s", str(size), "-n", count, "-w", count, "--no-verify", "--json", "-"]
    done = subprocess.run(command + arguments, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    result = json.loads(done.stdout)["results"][0]
    return result["span_us"] / 1e6 / result["iters"]


def latency(program: str, transports: str, arguments: list[str]) -> float:
    """Seconds that 8 bytes take one way, the median of a run."""
    if transports:
        return ucx(transports, 8, 20_000, arguments)
    command = [program, "--loopback", "-t", "lat", "-s", "8", "-n", "20000", "--no-verify", "--json", "-", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return float(json.loads(done.stdout)["results"][0]["lat_us"]["p50"]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("xfer_bench")
    parser.add_argument("--sizes-kib", default="64,1024,16384,262144")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--ucx-put", default="")
    options = parser.parse_args()
    sizes = [int(size) << 10 for size in options.sizes_kib.split(",")]
    pairs: dict[str, Pair] = {}
    absent: dict[str, str] = {}
    for name in [*PEERS, *UCX]:
        if options.only and name not in options.only.split(","):
            continue
        if name in UCX and not options.ucx_put:
            absent[name] = "its program could not be built"
            continue
        pair = None
        try:
            pair = Pair(name, options.ucx_put)
            pair.round(sizes[0])
            pairs[name] = pair
        except (ImportError, RuntimeError, OSError) as error:
            absent[name] = str(error)
            if pair:
                pair.end()
    rates: dict[tuple[str, int], list[float]] = {}
    times: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for size in sizes:
            for name, pair in list(pairs.items()):
                try:
                    rates.setdefault((name, size), []).append(size / pair.round(size) / 1e9)
                except (RuntimeError, OSError) as error:
                    absent[name] = f"{error} (at {size} bytes)"
                    pairs.pop(name).end()
            for name, arguments in XFER.items():
                rates.setdefault((name, size), []).append(size / xfer(options.xfer_bench, arguments, size) / 1e9)
        for name, (transports, arguments) in LATENCIES.items():
            if name in absent:
                continue
            try:
                took = latency(options.xfer_bench, transports, arguments) * 1e6
                times.setdefault(name, []).append(took)
            except (ImportError, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                absent[name] = str(error)
    print(f"GB/s, median of {options.rounds} rounds in turn, one buffer at a time, confirmed; least and most in brackets")
    print(f"{'':18}" + "".join(f"{f'{size >> 10} KiB':>22}" for size in sizes))
    for name in [*pairs, *XFER]:
        cells = [rates.get((name, size), []) for size in sizes]
        shown = [f"{statistics.median(cell):.2f} ({min(cell):.2f}-{max(cell):.2f})" if cell else "-" for cell in cells]
        print(f"{name:18}" + "".join(f"{cell:>22}" for cell in shown))
    print("8 bytes one way, us, median of the rounds' medians; least and most in brackets")
    for name, rounds in times.items():
        print(f"{name:18}{statistics.median(rounds):>8.1f} ({min(rounds):.1f}-{max(rounds):.1f})")
    for name, why in absent.items():
        print(f"{name}: not measured: {why}")
    for pair in pairs.values():
        pair.end()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--serve":
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "sender")
    else:
        main()

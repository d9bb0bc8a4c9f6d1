"""Plays what is missing of the wanted cells, a few at a time, and prints the table."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import network, tables
from .containers import die_with_parent
from .matrix import METHODS, ROUNDS, SHORT, STOPS, VOID_ROUNDS, Cell, cells, wanted_rounds
from .play import STOPS as ALL_STOPS
from .servers import LAB, ROOT, SERVERS, WORKERS

# The longest round: a start, a warm-up, a sidecar and an entry point that use all of their stop timeouts, the clients' end.
ROUND_WITHIN = 300


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/lab/run", description=__doc__)
    parser.add_argument("--short", action="store_true", help="six cells, one round each: fails if ours loses any")
    parser.add_argument("--table", action="store_true", help="only print the table of what has been played")
    parser.add_argument("--servers", default=",".join(SERVERS), help="default: %(default)s")
    parser.add_argument("--stops", default=",".join(STOPS), help="default: %(default)s; there are deploy-cut and nlb besides")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds a cell (default: %(default)s, 20 where ours lost)")
    parser.add_argument("--parallel", type=int, default=6, help="rounds at a time (default: %(default)s)")
    parser.add_argument("--binary", default="target/release/ecs-prestop")
    parser.add_argument("--sidecar", help="what runs as the sidecar, such as the image's binary (default: that of --binary)")
    parser.add_argument("--results", type=Path, default=LAB / "results.jsonl",
                        help="rounds that stand in this file are not played again (default: %(default)s)")
    parser.add_argument("--docker", action="store_true",
                        help="replicas and sidecar in containers of Docker, one round at a time, without recipes and workers;"
                             " results stand in results-docker.jsonl")
    given = parser.parse_args()
    if given.docker:
        given.parallel = 1
        if given.results == LAB / "results.jsonl":
            given.results = LAB / "results-docker.jsonl"
    for what, known in (("servers", SERVERS), ("stops", ALL_STOPS), ("methods", METHODS)):
        chosen = getattr(given, what).split(",")
        for name in chosen:
            if name not in known:
                parser.error(f"--{what}: `{name}` is none of {', '.join(known)}")
        setattr(given, what, chosen)
    if given.docker:
        # The processes of a task are not shared there, and nobody plays the queue.
        given.methods = [method for method in given.methods if method != "recipe"]
        given.servers = [server for server in given.servers if server not in WORKERS]
    given.results = given.results.resolve()
    return given


class Rounds:
    """What has been played, and what is being played."""

    def __init__(self, results: Path):
        self.results = results
        self.rows = tables.read(results)
        self.under_way: dict[Cell, int] = {}
        self.given_out: dict[Cell, int] = {}
        for row in self.rows:
            cell = Cell(row["server"], row["stop"], row["method"])
            self.given_out[cell] = max(self.given_out.get(cell, 0), row["round"])

    def played(self, cell: Cell) -> list[dict]:
        return [row for row in self.rows if (row["server"], row["stop"], row["method"]) == (cell.server, cell.stop, cell.method)]

    def wants_more(self, cell: Cell, rounds: int) -> bool:
        played = self.played(cell)
        valid = [row for row in played if not row["void"]]
        void = len(played) - len(valid)
        under_way = self.under_way.get(cell, 0)
        return void < VOID_ROUNDS and len(valid) + under_way < wanted_rounds(cell, rounds, valid)

    def begin(self, cell: Cell) -> int:
        self.under_way[cell] = self.under_way.get(cell, 0) + 1
        self.given_out[cell] = self.given_out.get(cell, 0) + 1
        return self.given_out[cell]

    def end(self, cell: Cell, row: dict) -> None:
        self.under_way[cell] -= 1
        self.rows.append(row)
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")


async def play(cell: Cell, number: int, slot: int, given: argparse.Namespace) -> dict:
    build, destroy = (network.build_docked, network.destroy_docked) if given.docker else (network.build, network.destroy)
    logs = given.results.with_suffix(".logs")
    prefix = f"lab{os.getpid()}-{slot}"
    folder = logs / f"{cell.server}.{cell.stop}.{cell.method}.{number}"
    shutil.rmtree(folder, ignore_errors=True)
    # The balancer is tried as it is and, in every second round, with retries elsewhere.
    order = {"server": cell.server, "stop": cell.stop, "method": cell.method, "round": number, "retries": number % 2 == 0,
             "prefix": prefix, "folder": str(folder), "binary": str((ROOT / given.binary).resolve()),
             "sidecar": given.sidecar and str((ROOT / given.sidecar).resolve()), "docked": given.docker}
    row = {name: order[name] for name in ("server", "stop", "method", "round", "retries")}
    row |= {"requests": 0, "lost": 0, "void": 1}
    try:
        build(prefix)
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", f"{prefix}-front", sys.executable, "-m", "lab.play", json.dumps(order),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests/lab")},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), ROUND_WITHIN)
            row = json.loads(out) if process.returncode == 0 else row | {"broken": err.decode()[-1500:]}
        except TimeoutError:
            row |= {"broken": f"not over within {ROUND_WITHIN} s"}
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    except (subprocess.CalledProcessError, ValueError) as why:
        row |= {"broken": f"{why}: {getattr(why, 'stderr', '')}"}
    finally:
        destroy(prefix)
    if not row["void"] and not row["lost"]:
        shutil.rmtree(folder, ignore_errors=True)
    return row


async def play_all(wanted: list[Cell], given: argparse.Namespace) -> Rounds:
    given.results.parent.mkdir(parents=True, exist_ok=True)
    rounds = Rounds(given.results)

    async def slot(number: int) -> None:
        while True:
            # All cells get their first round before any gets its second.
            open_cells = [cell for cell in wanted if rounds.wants_more(cell, given.rounds)]
            if not open_cells:
                if not any(rounds.under_way.values()):
                    return
                # What is under way may want more rounds of its cell.
                await asyncio.sleep(1)
                continue
            cell = min(open_cells, key=lambda cell: len(rounds.played(cell)) + rounds.under_way.get(cell, 0))
            row = await play(cell, rounds.begin(cell), number, given)
            rounds.end(cell, row)
            print(tables.line(row), flush=True)

    # Stopped in any way it takes its namespaces with it, and can be taken up again.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)

    # Not all at once: each starts two servers.
    async def later(number: int) -> None:
        await asyncio.sleep(number * 2)
        await slot(number)

    await asyncio.gather(*(later(number) for number in range(given.parallel)))
    return rounds


def short(given: argparse.Namespace) -> int:
    """Nothing may be lost with the settings that `add` writes, where the balancer is told."""
    given.results = LAB / "short.jsonl"
    given.results.unlink(missing_ok=True)
    given.rounds = 1
    # The same without the sidecar has to lose some, or the clients see nothing.
    wanted = [Cell(server, stop, "ours") for server, stop in SHORT] + [Cell("caddy", "never", "nothing")]
    given.parallel = len(wanted)
    began = time.monotonic()
    rounds = asyncio.run(play_all(wanted, given))
    failures = []
    for cell in wanted:
        valid = [row for row in rounds.played(cell) if not row["void"]]
        lost = sum(row["lost"] for row in valid)
        if not valid:
            failures.append(f"{cell}: no round without a loss before the stop, or that could be played; see {given.results}")
        elif cell.method == "ours" and lost:
            failures.append(f"{cell}: {lost} of {sum(row['requests'] for row in valid)} lost; see {given.results}")
        elif cell.method == "nothing" and not lost:
            failures.append(f"{cell}: lost nothing, so nothing is shown by the others")
    print(f"{len(wanted)} cells in {time.monotonic() - began:.0f} s")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def main() -> int:
    given = options()
    if given.table:
        print(tables.markdown(tables.read(given.results)))
        return 0
    if os.geteuid() != 0:
        print("the lab needs root, for network namespaces", file=sys.stderr)
        return 2
    if given.short:
        return short(given)
    rounds = asyncio.run(play_all(cells(given.servers, given.stops, given.methods), given))
    print(tables.markdown(rounds.rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)

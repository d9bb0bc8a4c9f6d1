"""Plays every protocol at every moment, several at a time, and prints a table of what the step did and how many seconds
after the last byte of the answer (or after SIGTERM, where that came later) the sidecar ended.

The exit code is 1 where a step that may not be early was, or did not drain, where a play could not be played, and where
a sidecar that only sleeps was not found to be early.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from lab import network
from lab.containers import die_with_parent

from .play import MOMENTS, PROTOCOLS, is_a_play, is_promised, may_hang_up

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "target/lab/protocols"
# The longest play: two starts on a busy machine, a long request, a sidecar that uses its whole stop timeout.
PLAY_WITHIN = 200
# What everybody would find too early in the middle of a request: if the plays do not, they show nothing.
TOO_EARLY = "sleep 100ms"
SHOWN_AT = "worked on"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/lab/protocols/run", description=__doc__)
    parser.add_argument("--only", default="", help="protocols with that in their name")
    parser.add_argument("--moments", default=",".join(MOMENTS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="plays of each, SIGTERM at another time (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=12, help="plays at a time (default: %(default)s)")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/ecs-prestop")
    given = parser.parse_args()
    given.moments = given.moments.split(",")
    for moment in given.moments:
        if moment not in MOMENTS:
            parser.error(f"--moments: `{moment}` is none of {', '.join(MOMENTS)}")
    if not given.binary.exists():
        parser.error(f"--binary: {given.binary} is not there; `cargo build` makes target/debug/ecs-prestop")
    return given


def certificate() -> Path:
    """One for the servers of TLS, with its key; nobody verifies it."""
    file = FOLDER / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=app",
               "-days", "2", "-keyout", "-"]
    file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return file


async def play(order: dict, prefix: str) -> dict:
    row = {name: order[name] for name in ("protocol", "moment", "step", "round")}
    try:
        network.build(prefix)
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", f"{prefix}-front", sys.executable, "-m", "protocols.play", json.dumps(order),
            stdout=subprocess.PIPE, preexec_fn=die_with_parent,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), PLAY_WITHIN)
            return json.loads(out)
        except TimeoutError:
            return row | {"broken": f"not over within {PLAY_WITHIN} s"}
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    except (subprocess.CalledProcessError, ValueError) as why:
        return row | {"broken": f"{why}: {getattr(why, 'stderr', '')}"}
    finally:
        network.destroy(prefix)


async def play_all(given: argparse.Namespace) -> list[dict]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    pem = certificate()
    orders = []
    for name, protocol in PROTOCOLS.items():
        if given.only not in name:
            continue
        wanted = [(moment, protocol.step, number) for number in range(given.rounds) for moment in given.moments]
        if protocol.promised:
            wanted.append((SHOWN_AT, TOO_EARLY, 0))
        for moment, step, number in wanted:
            if is_a_play(protocol, moment):
                folder = FOLDER / f"{name} {moment} {step} {number}".replace("/", "-")
                orders.append({"protocol": name, "moment": moment, "step": step, "round": number, "folder": str(folder),
                               "binary": str(given.binary.resolve()), "certificate": str(pem)})
    # All protocols get their first plays before any gets its second.
    orders.sort(key=lambda order: -order["round"])
    rows: list[dict] = []
    # Stopped in any way it takes its namespaces with it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)

    async def slot(number: int) -> None:
        # Not all at once: each starts a server.
        await asyncio.sleep(number * 0.5)
        prefix = f"prot{os.getpid()}-{number}"
        while orders:
            row = await play(orders.pop() | {"prefix": prefix}, prefix)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)

    await asyncio.gather(*(slot(number) for number in range(given.parallel)))
    return rows


def is_early(row: dict) -> bool:
    return row["result"] == "drained" and row["after_answer"] < 0


def seconds(values: list[float]) -> str:
    """The median, and the greatest where it is another."""
    usual, most = f"{statistics.median(values):.1f}", f"{max(values):.1f}"
    return usual if usual == most else f"{usual} (most {most})"


def said(rows: list[dict]) -> str:
    """What a cell of the table says."""
    if any("broken" in row for row in rows):
        return "could not be played"
    early = [-row["after_answer"] for row in rows if is_early(row)]
    if early:
        return f"**early** in {len(early)} of {len(rows)}, by {seconds(early)}"
    others = sorted({row["result"] for row in rows} - {"drained"})
    lost = ["the server hung up"] if any(row["no_answer"] for row in rows) else []
    return ", ".join([seconds([row["after_answer"] for row in rows]), *others, *lost])


def table(rows: list[dict], moments: list[str]) -> str:
    lines = [f"| | step | {' | '.join(moments)} |", "|---" * (len(moments) + 2) + "|"]
    for name, protocol in PROTOCOLS.items():
        cells = []
        for moment in moments:
            cell = [row for row in rows if (row["protocol"], row["moment"], row["step"]) == (name, moment, protocol.step)]
            cells.append(said(cell) if cell else "–")
        if set(cells) != {"–"}:
            lines.append(f"| {name} | `{protocol.step}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def faults(rows: list[dict]) -> list[str]:
    found = []
    for row in rows:
        name = f"{row['protocol']}, {row['moment']}, `{row['step']}`, round {row['round']}"
        if "broken" in row:
            found.append(f"{name}: could not be played: {row['broken']}")
        elif row["no_answer"] and not may_hang_up(row["moment"]):
            found.append(f"{name}: no answer: {row['no_answer']}")
        elif row["step"] == TOO_EARLY:
            if not is_early(row):
                found.append(f"{name}: is not found to be early, so the others show nothing")
        elif is_promised(PROTOCOLS[row["protocol"]], row["moment"]):
            if is_early(row):
                found.append(f"{name}: drained {-row['after_answer']} s before the answer was complete")
            elif row["result"] != "drained":
                found.append(f"{name}: {row['result']}")
    return found


def main() -> int:
    given = options()
    if os.geteuid() != 0:
        print("this needs root, for network namespaces", file=sys.stderr)
        return 2
    began = time.monotonic()
    rows = asyncio.run(play_all(given))
    print(table(rows, given.moments))
    found = faults(rows)
    print(f"\n{len(rows)} plays in {time.monotonic() - began:.0f} s, {len(found)} faults")
    for fault in found:
        print(f"FAILED {fault}")
    return 1 if found or not rows else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)

#!/usr/bin/env python3
"""The real binary against AWS as moto's server plays it: run.py BINARY

Each feature end to end, every failure of AWS (a proxy before moto makes them), fifty sidecars of one
instance, and the policy files held against what was called. One line a check, then the tables; the last
line counts; exit code 1 if any failed."""

import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import faults
import features
import fifty
from case import Rig
from world import Moto, World, offline

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "task-definitions" / "iam"
# Sidecars mostly wait; more at once would measure this machine.
AT_ONCE = 12
# All of it takes two minutes; whatever hangs ends here.
WATCHDOG_S = 300


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, problems):
        if problems:
            self.failed += 1
        else:
            self.passed += 1
        print(f"FAIL {what}: " + "; ".join(problems) if problems else f"ok   {what}", flush=True)


def guarded(what, call):
    """A check that cannot be made has failed; the others go on."""
    try:
        return call()
    except Exception as why:
        return what, [f"{type(why).__name__}: {why}"], {}


def guarded_cell(rig, cell):
    try:
        return faults.play(rig, cell)
    except Exception as why:
        cell.problems = (f"{type(why).__name__}: {why}",)
        return cell


@contextmanager
def pooled():
    """What has not begun when something goes wrong never begins."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def granted(file):
    statements = json.loads(file.read_text())["Statement"]
    actions = [statement["Action"] for statement in ([statements] if isinstance(statements, dict) else statements)]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


def check_policies(tally, used):
    for feature, actions in sorted(used.items()):
        file = POLICIES / f"sidecar-{feature}.json"
        if not file.exists():
            print(f"     {file.name} is not there; called: {', '.join(sorted(actions))}")
            continue
        allowed = granted(file)
        tally.check(
            f"{file.name} grants what was called, and no more",
            [f"called without it: {action}" for action in sorted(actions - allowed)]
            + [f"never called: {action}" for action in sorted(allowed - actions)],
        )


def main(binary):
    started = time.monotonic()
    tally, used = Tally(), {}
    with Moto() as moto, pooled() as pool:
        rig = Rig(binary, World(moto))
        reports = []
        # Each has the machine to itself.
        for check in (fifty.alone, fifty.everything):
            what, problems, report = guarded(f"fifty sidecars: {check.__name__}", partial(check, rig))
            tally.check(what, problems)
            reports += [what, *report]
        ends = [pool.submit(guarded, check.__name__, partial(check, rig)) for check in features.CHECKS]
        cells = [pool.submit(guarded_cell, rig, cell) for cell in faults.all_cells()]
        ends += [
            pool.submit(guarded, feature.name, partial(faults.play_silent, rig, feature))
            for feature in faults.silent_features()
        ]
        for end in ends:
            what, problems, called = end.result()
            tally.check(what, problems)
            for feature, actions in called.items():
                used.setdefault(feature, set()).update(actions)
        cells = [cell.result() for cell in cells]
        for cell in cells:
            tally.check(cell.label, cell.problems)
    check_policies(tally, used)
    print("\n".join(["", *faults.table(cells), "", *reports, f"{time.monotonic() - started:.0f} s"]))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: run.py BINARY")
    offline()

    def give_up(*_):
        raise SystemExit(f"not done after {WATCHDOG_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(WATCHDOG_S)
    sys.exit(main(str(Path(sys.argv[1]).resolve())))

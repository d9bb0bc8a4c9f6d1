"""Every fault, every feature, with and without SIGTERM: the drain starts when it would have started, ends
by its deadline with the right code, and one line says what failed."""

import re
from collections import Counter
from dataclasses import dataclass

from case import CALL_S, JITTER_S, SLACK_S, unless
from features import SPOT
from proxy import ECS, ELB, FAULTS
from world import STOP_TIMEOUT_S

# How a line may name each fault.
NAMES = {
    "time-out": r"time|in vain|no answer|not answer",
    "reset": r"reset|connection|clos|broke|dispatch|hung up",
    "500": r"\b500\b|ServerException|InternalFailure",
    "503": r"\b503\b",
    "throttling": r"throttl|rate exceeded",
    "denied": r"denied|not authori[sz]ed|not allowed|may not",
    "expired": r"expired",
    "garbage": r"not what AWS answers|pars|sense|not JSON|not XML|invalid",
    "trickle": r"time|in vain|no answer|not answer|slow",
}
SIGTERM_S, SPOT_S = 9, 10
# The instance has its turn, and its five seconds, within this.
LONG_S = 40
# Of complaints about a fault that was there from the start: at start, at the notice, and why.
MOST_COMPLAINTS = 3


@dataclass(frozen=True)
class Feature:
    name: str
    call: str | None
    settings: dict
    # What is broken at the notice; the fault is there from the start where None.
    actions: frozenset | None
    policy: str | None = None
    ec2: bool = False
    # Which notices it answers.
    on: frozenset = frozenset({"sigterm", "spot"})

    @property
    def column(self):
        return self.name if self.actions is not None or self.name == "none" else f"{self.name} (start)"


def ecs(*actions):
    return frozenset(f"{ECS}:{action}" for action in actions)


LEAVING = frozenset({f"{ELB}:DeregisterTargets", f"{ELB}:DescribeTargetHealth"})
INSTANCE = ecs("DescribeContainerInstances", "UpdateContainerInstancesState")
ON_INSTANCE = {"PRESTOP_DRAIN_INSTANCE": "true", "PRESTOP_STOP_TIMEOUT": f"{LONG_S}s"}
DEREGISTER = {"PRESTOP_DEREGISTER": "true"}
STOP_TASK = {"PRESTOP_AFTER_DRAIN": "stop-task"}
FEATURES = [
    Feature("none", None, {}, frozenset()),
    Feature("deregister", "deregister", DEREGISTER, LEAVING, "sidecar-deregister.json"),
    Feature("deregister", "deregister", DEREGISTER, None, "sidecar-deregister.json"),
    Feature("drain-instance", "drain-instance", ON_INSTANCE, INSTANCE, "sidecar-drain-instance.json", True),
    Feature("drain-instance", "drain-instance", ON_INSTANCE, None, "sidecar-drain-instance.json", True),
    Feature("stop-task", "stop-task", STOP_TASK, ecs("StopTask"), "sidecar-stop-task.json", on=frozenset({"spot"})),
    Feature("stop-timeout", None, {"PRESTOP_STOP_TIMEOUT": "auto"}, None, "sidecar-stop-timeout.json"),
    Feature("why", "why", {}, ecs("DescribeTasks"), "sidecar-why.json", on=frozenset({"sigterm"})),
]


@dataclass
class Cell:
    feature: Feature
    fault: str
    sigterm: bool
    first_ms: int | None = None
    app_ms: float | None = None
    code: int | None = None
    ended_ms: int | None = None
    calls: int = 0
    problems: tuple = ()
    complaints: tuple = ()

    @property
    def asked(self):
        return self.feature.call and ("sigterm" if self.sigterm else "spot") in self.feature.on

    @property
    def label(self):
        return f"{self.feature.column}, {self.fault}, {'with' if self.sigterm else 'without'} SIGTERM"


def all_cells():
    cells = [
        Cell(feature, fault, sigterm)
        for feature in FEATURES
        for fault in ["no fault", *FAULTS]
        for sigterm in (True, False)
        if feature.call or feature.name != "none" or fault == "no fault"
    ]
    # The longest first.
    return sorted(cells, key=lambda cell: cell.feature.call != "drain-instance")


def play(rig, cell):
    feature, fault = cell.feature, None if cell.fault == "no fault" else cell.fault
    long = feature.call == "drain-instance"
    # An instance has a Spot notice, and then, in one half of the cases, its SIGTERM.
    spot = long or not cell.sigterm
    settings = {"PRESTOP_STOP_TIMEOUT": f"{SIGTERM_S}s", "PRESTOP_RESERVE": "1s"}
    settings |= (SPOT if spot else {}) | ({} if cell.sigterm else {"PRESTOP_AFTER_DRAIN": "exit"}) | feature.settings
    if feature.ec2:
        task = rig.world.bridge_task(rig.world.instance(), register=False)
    else:
        task = rig.world.awsvpc_task()
    held = feature.name not in ("stop-task", "none")
    broken = fault if feature.actions is None else None
    with rig.case(task, settings, "EC2", released=not held, broken=broken) as case:
        if fault and feature.actions is not None:
            case.proxy.breaks(fault, feature.actions)
        if spot:
            case.host.announce_spot(LONG_S if long else SPOT_S)
            case.notice()
        if cell.sigterm:
            case.sidecar.sigterm()
        # The app drains until the outcome is known, within what the deadline leaves.
        problems = []
        if cell.asked:
            patience = (JITTER_S if long else 0) + CALL_S + SLACK_S
            problems += unless(case.ended(feature.call, patience), f"no aws.end within {patience} s")
        case.app.released.set()
        problems += case.ending(0, (LONG_S if long else max(SIGTERM_S, SPOT_S)) + 20)
        last = case.sidecar.last()
        cell.first_ms, cell.code, cell.ended_ms = case.sidecar.first_call_ms(), last.get("code"), last.get("used_ms")
        arrivals, noticed = case.app.arrivals, case.noticed_at()
        cell.app_ms = (arrivals[0] - noticed) * 1000 if arrivals and noticed else None
        cell.calls = len(case.proxy.faulted())
        cell.complaints = tuple(case.complaints())
        problems += unless(len(arrivals) == 1, f"{len(arrivals)} drain calls")
        problems += late(cell, last)
        problems += said(cell, case)
        if feature.name == "stop-timeout":
            wanted = (30 if fault else STOP_TIMEOUT_S) if cell.sigterm else None
            budget = last.get("budget_ms")
            margin = min(1, (wanted or 0) / 10)
            problems += unless(
                wanted is None or (budget is not None and abs(budget - (wanted - margin) * 1000) < 50),
                f"a budget of {budget} ms with a stop timeout of {wanted} s",
            )
        cell.problems = tuple(problems)
    return cell


def late(cell, last):
    """Only deregistration is waited for, and for half of the budget; `tests/aws.rs` has the milliseconds."""
    if cell.first_ms is None:
        return ["the drain never started"]
    waits = cell.feature.call == "deregister"
    limit = last["budget_ms"] / 2 if waits else 0
    events = [entry["event"] for entry in last["timeline"]]
    in_order = waits or "aws.end" not in events or events.index("step.start") < events.index("aws.end")
    return unless(in_order, "the drain started after AWS's answer") + unless(
        cell.first_ms <= limit + SLACK_S * 1000, f"the drain started after {cell.first_ms} ms of {last['budget_ms']} ms"
    )


def said(cell, case):
    """A fault that was met is told, by its name; once, unless it was there from the start."""
    lines = cell.complaints
    if not cell.calls:
        never = cell.fault == "no fault" or (cell.feature.actions is not None and not cell.asked)
        return unless(never, "the fault was never met") + unless(not lines, f"nothing was broken, but: {lines}")
    most = 1 if cell.feature.actions is not None else MOST_COMPLAINTS
    problems = unless(1 <= len(lines) <= most, f"{len(lines)} lines complain, not {most}: {lines}")
    named = [line for line in lines if re.search(NAMES[cell.fault], line, re.IGNORECASE)]
    problems += unless(named or not lines, f"no line names the {cell.fault}: {lines}")
    if cell.fault == "denied" and lines:
        denied = {call.action for call in case.proxy.faulted()}
        full = [line for line in lines if cell.feature.policy in line and any(action in line for action in denied)]
        problems += unless(full, f"no line names {cell.feature.policy} and one of {sorted(denied)}: {lines}")
        again = Counter(call.action for call in case.proxy.faulted())
        most = MOST_COMPLAINTS if cell.feature.actions is None else len(case.task.groups) or 1
        problems += unless(max(again.values()) <= most, f"denied, and asked again: {again}")
    return problems


# -- an app that never answers, AWS that never answers -------------------------------------------------


def play_silent(rig, feature):
    """Nothing answers at all, and the deadline is kept all the same."""
    task = rig.world.bridge_task(rig.world.instance(), False) if feature.ec2 else rig.world.awsvpc_task()
    settings = feature.settings | {"PRESTOP_STOP_TIMEOUT": "4s", "PRESTOP_RESERVE": "1s"} | SPOT
    with rig.case(task, settings, released=False) as case:
        case.proxy.breaks("trickle")
        case.host.announce_spot(6)
        case.notice()
        case.sidecar.sigterm()
        problems = case.ending(3, 12)
        problems += unless(case.sidecar.first_call_ms() is not None, "the drain never started")
        return f"{feature.name}: neither the app nor AWS answers, and it ends by the deadline with 3", problems, {}


def silent_features():
    return [feature for feature in FEATURES if feature.actions is not None and feature.name != "none"]


# -- the table ---------------------------------------------------------------------------------------


def table(cells):
    """Fault by feature: ms from the notice to the first drain call, with and without SIGTERM, exit codes."""
    columns = list(dict.fromkeys(feature.column for feature in FEATURES))
    rows = ["no fault", *FAULTS]
    found = {(cell.feature.column, cell.fault, cell.sigterm): cell for cell in cells}

    def entry(column, row):
        pair = [found.get((column, row, sigterm)) for sigterm in (True, False)]
        if None in pair:
            return ""
        return " ".join(f"{cell.first_ms}/{cell.code}{'!' if cell.problems else ''}" for cell in pair)

    grid = [["", *columns]] + [[row, *(entry(column, row) for column in columns)] for row in rows]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    yield "ms from the notice to the first drain call / exit code, with SIGTERM and without; ! failed"
    for line in grid:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    gaps = [cell.app_ms - cell.first_ms for cell in cells if cell.app_ms is not None and cell.first_ms is not None]
    if gaps:
        middle = sorted(gaps)[len(gaps) // 2]
        yield f"from step.start to the app: {middle:.0f} ms in the middle, {max(gaps):.0f} at most"

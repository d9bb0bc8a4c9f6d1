"""Every failure of AWS, every feature, with and without SIGTERM: the drain starts when it would have started,
ends by its deadline with the right code, and one line says what failed."""

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from support.aws import STOP_TIMEOUT_S
from support.case import CALL_S, JITTER_S, SLACK_S, SPOT
from support.proxy import ECS, ELB, FAULTS

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
    """One play of the table, and what was measured in it."""

    feature: Feature
    fault: str
    sigterm: bool
    first_ms: int | None = None
    app_ms: float | None = None
    code: int | None = None

    @property
    def asked(self):
        return self.feature.call and ("sigterm" if self.sigterm else "spot") in self.feature.on

    @property
    def name(self):
        return f"{self.feature.column}-{self.fault}-{'sigterm' if self.sigterm else 'no SIGTERM'}".replace(" ", "_")


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


@pytest.mark.at_once
@pytest.mark.parametrize("cell", all_cells(), ids=lambda cell: cell.name)
def test_a_fault_delays_nothing_and_is_told(rig, cell):
    feature, fault = cell.feature, None if cell.fault == "no fault" else cell.fault
    long = feature.call == "drain-instance"
    # An instance has a Spot notice, and then, in one half of the cases, its SIGTERM.
    spot = long or not cell.sigterm
    settings = {"PRESTOP_STOP_TIMEOUT": f"{SIGTERM_S}s", "PRESTOP_RESERVE": "1s"}
    settings |= (SPOT if spot else {}) | ({} if cell.sigterm else {"PRESTOP_AFTER_DRAIN": "exit"}) | feature.settings
    held = feature.name not in ("stop-task", "none")
    broken = fault if feature.actions is None else None
    with rig.case(task_of(rig, feature), settings, "EC2", released=not held, broken=broken) as case:
        if fault and feature.actions is not None:
            case.proxy.breaks(fault, feature.actions)
        if spot:
            case.host.announce_spot(LONG_S if long else SPOT_S)
            case.notice()
        if cell.sigterm:
            case.sidecar.sigterm()
        # The app drains until the outcome is known, within what the deadline leaves.
        if cell.asked:
            case.end_of(feature.call, (JITTER_S if long else 0) + CALL_S + SLACK_S)
        case.app.released.set()
        case.ends(0, (LONG_S if long else max(SIGTERM_S, SPOT_S)) + 20)
        last = case.sidecar.last()
        arrivals, noticed = case.app.arrivals, case.noticed_at()
        cell.first_ms, cell.code = case.sidecar.first_call_ms(), last["code"]
        cell.app_ms = (arrivals[0] - noticed) * 1000 if arrivals and noticed else None
        rig.cells.append(cell)
        assert len(arrivals) == 1
        starts_in_time(cell, last)
        is_told(cell, case)
        if feature.name == "stop-timeout" and cell.sigterm:
            seconds = 30 if fault else STOP_TIMEOUT_S
            case.has_budget((seconds - min(1, seconds / 10)) * 1000)


def task_of(rig, feature):
    return rig.aws.bridge_task(rig.aws.instance(), register=False) if feature.ec2 else rig.aws.awsvpc_task()


def starts_in_time(cell, last):
    """Only deregistration is waited for, and for half of the budget; `tests/promises/aws.rs` has the
    milliseconds."""
    assert cell.first_ms is not None, "the drain never started"
    waits = cell.feature.call == "deregister"
    limit_ms = last["budget_ms"] / 2 if waits else 0
    assert cell.first_ms <= limit_ms + SLACK_S * 1000
    events = [entry["event"] for entry in last["timeline"]]
    if not waits and "aws.end" in events:
        assert events.index("step.start") < events.index("aws.end"), "the drain waited for AWS's answer"


def is_told(cell, case):
    """A fault that was met is told, by its name; once, unless it was there from the start."""
    lines, faulted = case.complaints(), case.proxy.faulted()
    if not faulted:
        assert cell.fault == "no fault" or (cell.feature.actions is not None and not cell.asked), "never met"
        assert lines == [], "nothing was broken"
        return
    from_the_start = cell.feature.actions is None
    assert 1 <= len(lines) <= (MOST_COMPLAINTS if from_the_start else 1), lines
    assert any(re.search(NAMES[cell.fault], line, re.IGNORECASE) for line in lines), lines
    if cell.fault == "denied":
        again = Counter(call.action for call in faulted)
        assert any(cell.feature.policy in line and any(action in line for action in again) for line in lines), lines
        most = MOST_COMPLAINTS if from_the_start else len(case.task.groups) or 1
        assert max(again.values()) <= most, f"denied, and asked again: {again}"


SILENT = [feature for feature in FEATURES if feature.actions is not None and feature.name != "none"]


@pytest.mark.at_once
@pytest.mark.parametrize("feature", SILENT, ids=lambda feature: feature.name)
def test_where_neither_the_app_nor_aws_answers_it_ends_by_the_deadline_with_3(rig, feature):
    settings = feature.settings | {"PRESTOP_STOP_TIMEOUT": "4s", "PRESTOP_RESERVE": "1s"} | SPOT
    with rig.case(task_of(rig, feature), settings, released=False) as case:
        case.proxy.breaks("trickle")
        case.host.announce_spot(6)
        case.notice()
        case.sidecar.sigterm()
        case.ends(3, 12)
        assert case.sidecar.first_call_ms() is not None, "the drain never started"


# -- the table ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def show_table(rig, report):
    yield
    report.extend(table(rig.cells))


def table(cells):
    """Fault by feature: ms from the notice to the first drain call, with and without SIGTERM, exit codes."""
    columns = list(dict.fromkeys(feature.column for feature in FEATURES))
    rows = ["no fault", *FAULTS]
    found = {(cell.feature.column, cell.fault, cell.sigterm): cell for cell in cells}

    def entry(column, row):
        pair = [found.get((column, row, sigterm)) for sigterm in (True, False)]
        return " ".join(f"{cell.first_ms}/{cell.code}" if cell else "-" for cell in pair)

    grid = [["", *columns]] + [[row, *(entry(column, row) for column in columns)] for row in rows]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    yield "ms from the notice to the first drain call / exit code, with SIGTERM and without"
    for line in grid:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    gaps = sorted(cell.app_ms - cell.first_ms for cell in cells if cell.app_ms is not None)
    if gaps:
        yield f"from step.start to the app: {gaps[len(gaps) // 2]:.0f} ms in the middle, {gaps[-1]:.0f} at most"

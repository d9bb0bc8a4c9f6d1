"""One sidecar in one task, with a host and a proxy of its own; and how long each may take."""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from support.aws import Task
from support.proxy import Proxy
from support.sidecar import Host, Sidecar, in_words

# A whole call of the sidecar, with all its attempts.
CALL_S = 5
# The sidecars of one instance spread their calls over this.
JITTER_S = 10
# What this machine may add to any time: two cores, a dozen sidecars, and moto.
SLACK_S = 1.5
WHY = "ecs:DescribeTasks"
SPOT = {"PRESTOP_WATCH": "spot", "PRESTOP_POLL_INTERVAL": "200ms"}


@dataclass
class Case:
    task: Task
    host: Host
    proxy: Proxy
    app: object
    sidecar: Sidecar

    def notice(self):
        return self.sidecar.sees(lambda event: event["event"] == "notice", 10)

    def end_of(self, call, timeout_s):
        """The line that tells the end of what was asked of AWS."""
        end = self.sidecar.sees(lambda e: e["event"] == "aws.end" and e.get("call") == call, timeout_s)
        assert end, f"no aws.end of {call} within {timeout_s} s"
        return end

    def succeeds(self, call, timeout_s):
        end = self.end_of(call, timeout_s)
        assert end["outcome"] != "failed", in_words(end)

    def noticed_at(self):
        """By the clock that the proxy and the app use, too."""
        notice = next((event for event in self.sidecar.events if event["event"] == "notice"), None)
        return notice and datetime.fromisoformat(notice["timestamp"]).timestamp()

    def own_actions(self):
        """What the feature called: all but the question why, which each SIGTERM asks."""
        at = self.noticed_at() or float("inf")
        before = {call.action for call in self.proxy.calls if call.at < at}
        return before | {call.action for call in self.proxy.calls if call.at >= at} - {WHY}

    def complaints(self):
        return [in_words(event) for event in self.sidecar.complaints()]

    def ends(self, code, timeout_s):
        """With that code, and within its own deadline."""
        got = self.sidecar.ends(timeout_s)
        assert got is not None, f"it still runs after {timeout_s} s"
        last = self.sidecar.last()
        assert got == code, f"{last.get('result')} {self.sidecar.error}"
        assert last["used_ms"] <= last["budget_ms"] + SLACK_S * 1000

    def first_step_within(self, limit_s):
        ms = self.sidecar.first_call_ms()
        assert ms is not None, "the drain never started"
        assert ms < limit_s * 1000

    def has_budget(self, wanted_ms):
        assert abs(self.sidecar.last()["budget_ms"] - wanted_ms) < 50


class Rig:
    """Makes cases, and keeps what they have seen for the tests and tables that need all of them."""

    def __init__(self, binary, aws):
        self.binary, self.aws = binary, aws
        # The actions that each feature has called, by the end of the name of its policy file.
        self.called = defaultdict(set)
        # What clients lost that know a task by its name.
        self.named = []
        # The cells of the table of faults.
        self.cells = []

    @contextmanager
    def case(self, task, settings, launch_type="EC2", released=True, listen=False, broken=None, endpoints=()):
        """`broken`: a fault that is there from the start."""
        with Host() as host, Proxy(self.aws.moto.port, self.aws.amend) as proxy:
            app = host.add(task, launch_type, released)
            if broken:
                proxy.breaks(broken)
            if endpoints:
                settings = {"AWS_ENDPOINT_URL": None} | dict.fromkeys(endpoints, proxy.url) | settings
            with Sidecar(self.binary, host, proxy, task, settings, listen) as sidecar:
                sidecar.settles(proxy)
                yield Case(task, host, proxy, app, sidecar)

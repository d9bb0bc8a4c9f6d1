"""One sidecar in one task, with a host and a proxy of its own; and how long each may take."""

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from proxy import Proxy
from task import Host, Sidecar, in_words
from world import Task

# A whole call of the sidecar, with all its attempts.
CALL_S = 5
# The sidecars of one instance spread their calls over this.
JITTER_S = 10
# What this machine may add to any time: two cores, a dozen sidecars, and moto.
SLACK_S = 1.5
WHY = "ecs:DescribeTasks"


@dataclass
class Case:
    task: Task
    host: Host
    proxy: Proxy
    app: object
    sidecar: Sidecar

    def notice(self):
        return self.sidecar.sees(lambda event: event["event"] == "notice", 10)

    def ended(self, call, timeout_s):
        """The end of what was asked of AWS, or None."""
        return self.sidecar.sees(lambda e: e["event"] == "aws.end" and e.get("call") == call, timeout_s)

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

    def ending(self, code, timeout_s):
        """Problems with the end: its code, and whether the sidecar kept its own deadline."""
        got = self.sidecar.ends(timeout_s)
        last = self.sidecar.last()
        if got is None:
            return [f"it still runs after {timeout_s} s"]
        problems = unless(got == code, f"exit code {got}, not {code}: {last.get('result')} {self.sidecar.error}")
        used, budget = last.get("used_ms"), last.get("budget_ms")
        if used is None or budget is None or used > budget + SLACK_S * 1000:
            problems.append(f"{used} ms used of {budget} ms")
        return problems


class Rig:
    def __init__(self, binary, world):
        self.binary, self.world = binary, world

    @contextmanager
    def case(self, task, settings, launch_type="EC2", released=True, listen=False, broken=None, endpoints=()):
        """`broken`: a fault that is there from the start."""
        with Host() as host, Proxy(self.world.moto.port, self.world.amend) as proxy:
            app = host.add(task, launch_type, released)
            if broken:
                proxy.breaks(broken)
            if endpoints:
                settings = {"AWS_ENDPOINT_URL": None} | dict.fromkeys(endpoints, proxy.url) | settings
            with Sidecar(self.binary, host, proxy, task, settings, listen) as sidecar:
                sidecar.settles(proxy)
                yield Case(task, host, proxy, app, sidecar)


def unless(holds, problem):
    return [] if holds else [problem]

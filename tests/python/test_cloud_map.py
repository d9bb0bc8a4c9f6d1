"""Tasks that others find by Cloud Map, with the real binary against moto: how many requests of a client with a
cache are lost with and without the sidecar's part, what the calls look like, and what refusals do to a shutdown."""

import http.client
import re
import threading
import time
import urllib.request

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.aws import REGION, TTL_S
from support.case import SLACK_S
from support.definitions import EXAMPLES
from support.sidecar import KEY
from test_aws_each_feature import granted

DEREGISTER = {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "24s"}
WITHOUT = {"PRESTOP_STOP_TIMEOUT": "24s"}
POLICY = EXAMPLES / "iam" / "sidecar-cloud-map.json"
CLIENT_PAUSE_S = 0.05
TAKE_OUT = "servicediscovery:DeregisterInstance"
# A call that hangs is given 2 s, and asked again for 5 s at most.
PATIENCE_S = 7
# A client goes on for as long as a cached address can last.
AFTERWARDS_S = TTL_S + 1


class Client:
    """Calls the task while it has its address: that of `ListInstances`, kept for the TTL."""

    def __init__(self, rig, case):
        self.rig, self.case = rig, case
        self.answered, self.lost = 0, 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        known, until = False, 0
        url = f"{self.case.host.url}/app/{self.case.task.id}/work"
        while not self.stopped.wait(CLIENT_PAUSE_S):
            if time.monotonic() >= until:
                known, until = self.rig.aws.is_named(self.case.task), time.monotonic() + TTL_S
            if known:
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    self.answered += 1
                except (OSError, http.client.HTTPException):
                    self.lost += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


@pytest.mark.at_once
@pytest.mark.parametrize("takes_out", ["ECS at SIGTERM", "nobody else"])
@pytest.mark.parametrize("settings", [DEREGISTER, WITHOUT], ids=["with", "without"])
def test_a_client_that_keeps_its_address_for_the_ttl_loses_nothing(rig, settings, takes_out):
    with rig.case(rig.aws.named_task(), settings, "FARGATE") as case, Client(rig, case) as client:
        time.sleep(TTL_S + 1)
        if takes_out == "ECS at SIGTERM":
            rig.aws.take_name(case.task)
        case.sidecar.sigterm()
        case.ends(0, 25)
        time.sleep(AFTERWARDS_S)
        rig.named.append(f"{'with' if settings == DEREGISTER else 'without'} PRESTOP_DEREGISTER, taken out by "
                         f"{takes_out}: {client.lost} of {client.lost + client.answered} requests lost")
        assert client.answered > 0
        if settings == WITHOUT:
            assert client.lost > 0, "nothing is shown where nothing can be lost"
            return
        assert client.lost == 0
        assert not rig.aws.is_named(case.task)
        case.succeeds("deregister", 1)
        assert case.sidecar.first_call_ms() >= TTL_S * 1000
        assert case.complaints() == []


@pytest.mark.at_once
def test_each_call_is_signed_as_aws_signs_it_and_granted_by_the_policy(rig):
    task = rig.aws.named_task()
    with rig.case(task, DEREGISTER, "FARGATE") as case:
        case.sidecar.sigterm()
        case.ends(0, 25)
        calls = [call for call in case.proxy.calls if call.action.startswith("servicediscovery:")]
        assert {call.region for call in calls} == {REGION}
        assert any(f'"InstanceId":"{task.id}"' in call.body for call in calls)
        for call in calls:
            assert call.headers["authorization"] == signed_again(case.proxy.url, call), call.action
        of_cloud_map = {action for action in granted(POLICY) if not action.startswith("route53:")}
        assert {call.action for call in calls} == of_cloud_map


def signed_again(url, call):
    """The header by botocore, for the time that the call bears."""
    names = re.search("SignedHeaders=([^,]*)", call.headers["authorization"])[1].split(";")
    headers = {name.lower(): value for name, value in call.headers.items()}
    request = AWSRequest("POST", f"{url}/", {name: headers[name] for name in names}, call.body.encode())
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(KEY, "s", "t"), "servicediscovery", call.region)
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    scope = f"Credential={KEY}/{signer.credential_scope(request)}"
    return f"AWS4-HMAC-SHA256 {scope}, SignedHeaders={';'.join(names)}, Signature={signer.signature(to_sign, request)}"


@pytest.mark.at_once
@pytest.mark.parametrize("fault", ["denied", "throttling", "expired", "500", "503", "time-out", "trickle", "reset", "garbage"])
def test_what_cloud_map_refuses_is_told_once_and_spoils_nothing(rig, fault):
    with rig.case(rig.aws.named_task(), DEREGISTER, "FARGATE") as case:
        case.proxy.breaks(fault, {TAKE_OUT})
        case.sidecar.sigterm()
        case.ends(0, 30)
        case.first_step_within(TTL_S + PATIENCE_S + SLACK_S)
        assert case.sidecar.first_call_ms() >= TTL_S * 1000, "ECS may have taken it out itself"
        told = case.complaints()
        assert len(told) == 1, told
        assert TAKE_OUT in told[0]
        if fault == "denied":
            assert POLICY.name in told[0]
            assert case.proxy.counted()[TAKE_OUT] == 1, "denied, and asked again"


@pytest.mark.judges_plays
def test_what_clients_lost_is_shown(rig, report):
    report.extend(rig.named)

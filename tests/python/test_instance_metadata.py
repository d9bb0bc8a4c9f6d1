"""`simulate` as AWS's own client for instance metadata meets it: botocore's fetchers, with their tokens."""

import json
import logging
import signal
import subprocess
import time
import urllib.request
from urllib.error import URLError

import pytest
from botocore.utils import IMDSFetcher, InstanceMetadataFetcher, InstanceMetadataRegionFetcher

from support.ports import FreePort

# It listens within milliseconds.
STARTS_WITHIN_S = 20
# As botocore writes them: without a slash in front, since its base URL ends in one.
INSTANCE_ID = "latest/meta-data/instance-id"
DOCUMENT = "latest/dynamic/instance-identity/document"


@pytest.fixture(scope="module")
def endpoint(stand_in):
    port = FreePort()
    url = f"http://127.0.0.1:{port.number}/"
    command = [stand_in, "simulate", "--listen", f"127.0.0.1:{port.number}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_it_answers(process, f"{url}_simulate/")
        yield url
    finally:
        process.kill()
        process.wait()
        port.close()


def until_it_answers(process, url):
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        assert process.poll() is None, f"simulate ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except URLError:
            assert time.monotonic() < deadline, "simulate does not answer"
            time.sleep(0.05)


@pytest.fixture
def settings(endpoint):
    """What a session hands to a fetcher. A fetcher without a token falls back to version 1, which is not on."""
    return {
        "base_url": endpoint,
        "env": {},
        "timeout": 5,
        "num_attempts": 1,
        "config": {"ec2_metadata_v1_disabled": True},
    }


class ItemFetcher(IMDSFetcher):
    """One item, asked for and repeated as botocore's fetchers do it."""

    def item(self, path):
        return self._get_request(path, lambda answer: answer.status_code != 200, self._fetch_metadata_token()).text


def test_the_role_has_credentials(settings, caplog):
    with caplog.at_level(logging.DEBUG, logger="botocore"):
        found = InstanceMetadataFetcher(**settings).retrieve_iam_role_credentials()
    assert set(found) >= {"role_name", "access_key", "secret_key", "token", "expiry_time"}, caplog.text
    assert found["role_name"] == "simulated-role"
    assert time.strptime(found["expiry_time"], "%Y-%m-%dT%H:%M:%SZ") > time.gmtime()


def test_the_identity_document_and_the_items_say_the_same(settings):
    fetcher = ItemFetcher(**settings)
    document = json.loads(fetcher.item(DOCUMENT))
    assert document["instanceId"] == fetcher.item(INSTANCE_ID)
    # That one has it from the availability zone.
    assert document["region"] == InstanceMetadataRegionFetcher(**settings).retrieve_region()


def test_without_a_token_nothing_is_told(endpoint):
    with pytest.raises(URLError) as refused:
        urllib.request.urlopen(f"{endpoint}{INSTANCE_ID}", timeout=5)
    assert refused.value.code == 401


def test_the_sidecars_sdk_finds_the_role_of_the_instance_profile(binary, endpoint):
    """aws-config, which asks the instance metadata where neither environment nor agent has credentials."""
    listen = FreePort()
    environment = {
        "ECS_CONTAINER_METADATA_URI_V4": f"{endpoint}v4/prestop",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint,
        "AWS_ENDPOINT_URL": endpoint.rstrip("/"),
        # It asks ECS at start.
        "PRESTOP_STOP_TIMEOUT": "auto",
        "PRESTOP_DRAIN": "sleep 10ms",
        "PRESTOP_LISTEN": f"127.0.0.1:{listen.number}",
    }
    process = subprocess.Popen([binary.path, "run"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        asked, deadline = [], time.monotonic() + STARTS_WITHIN_S
        while not any(one["path"] == "/" for one in asked) and time.monotonic() < deadline:
            time.sleep(0.05)
            with urllib.request.urlopen(f"{endpoint}_simulate/", timeout=5) as answer:
                asked = json.load(answer)["requests"]
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=STARTS_WITHIN_S)
    finally:
        process.kill()
        process.wait()
        listen.close()
    wanted = {("PUT", "/latest/api/token", 200), ("POST", "/", 200)}
    wanted |= {("GET", f"/latest/meta-data/iam/security-credentials/{role}", 200) for role in ("", "simulated-role")}
    assert wanted <= {(one["method"], one["path"], one["status"]) for one in asked}, log

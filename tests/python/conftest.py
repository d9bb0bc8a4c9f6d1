"""Fixtures, and how the tests whose sidecars mostly wait are played beside each other.

Nothing here reaches an AWS account: the variables that would lead to one are taken away."""

import json
import logging
import os
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.binary import Binary
from support.definitions import REGION, ROOT

# More sidecars beside each other would measure this machine.
AT_ONCE = 12
# All of it takes two to three minutes; whatever hangs ends here.
WATCHDOG_S = 600

report_lines = pytest.StashKey()


def pytest_addoption(parser):
    default = ROOT / "target" / "debug" / "ecs-prestop"
    parser.addoption("--binary", type=Path, default=default, help="the ecs-prestop that is checked")
    parser.addoption("--stand-in", type=Path, default=default,
                     help="the ecs-prestop whose `simulate` plays the APIs of AWS, which that of the image does not")


def pytest_configure(config):
    config.stash[report_lines] = []
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="none",
        AWS_SECRET_ACCESS_KEY="none",
        AWS_DEFAULT_REGION=REGION,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        MOTO_IAM_LOAD_MANAGED_POLICIES="true",
    )


def pytest_sessionstart(session):
    def give_up(*_):
        pytest.exit(f"not done after {WATCHDOG_S} s", returncode=1)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(WATCHDOG_S)


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash[report_lines]
    if lines:
        terminalreporter.section("what was seen")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report(request):
    """A list of lines that are shown at the end."""
    return request.config.stash[report_lines]


@pytest.fixture(scope="session")
def binary(request):
    path = request.config.getoption("--binary").resolve()
    assert path.exists(), f"{path} is not there: cargo build makes it, --binary names another"
    return Binary(path)


@pytest.fixture(scope="session")
def stand_in(request):
    """One that plays the APIs of AWS, too."""
    path = request.config.getoption("--stand-in").resolve()
    assert path.exists(), f"{path} is not there: cargo build makes it, --stand-in names another"
    return path


# -- AWS's models, and moto in this process ------------------------------------------------------------


@pytest.fixture(scope="session")
def clients():
    """boto3's clients by the names of their services. Their server is in this process, where Step
    Functions can be taught the names that AWS uses."""
    # The server's own remarks; what moto does not know is asserted.
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    # Step Functions are played, not only stored; their calls go to this server.
    os.environ["MOTO_PORT"] = str(port)
    body = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
    urllib.request.urlopen(f"{endpoint}/moto-api/config", data=body, timeout=10).close()
    session = boto3.Session(region_name=REGION)
    limits = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1})
    made = {}

    def client(service):
        if service not in made:
            made[service] = session.client(service, endpoint_url=endpoint, config=limits)
        return made[service]

    yield client
    server.stop()


@pytest.fixture(scope="session")
def ecs(clients):
    return clients("ecs")


@pytest.fixture(scope="session")
def network(clients):
    """The parameters of a template that say where its tasks run."""
    ec2 = clients("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    return vpc, ",".join(subnet["SubnetId"] for subnet in subnets[:2])


# -- sidecars beside each other ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rig(binary):
    """Makes sidecars, in front of a moto in a process of its own."""
    from support.aws import Aws, Moto
    from support.case import Rig

    with Moto() as moto:
        yield Rig(binary.path, Aws(moto))


class Plays:
    """All selected tests that are marked `at_once`, begun together as soon as the first is wanted. Such a test
    takes no fixture but `rig`."""

    def __init__(self, items, rig):
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.ends = {
            item: self.pool.submit(item.obj, rig, **item.callspec.params if hasattr(item, "callspec") else {})
            for item in items
        }

    def end(self, item):
        """Waits for it, and raises what it has raised."""
        self.ends[item].result()


def is_at_once(item):
    return item.get_closest_marker("at_once") is not None


def judges_plays(item):
    return item.get_closest_marker("judges_plays") is not None


@pytest.fixture(scope="session")
def plays(request, rig):
    plays = Plays([item for item in request.session.items if is_at_once(item)], rig)
    yield plays
    # What has not begun when the run is broken off never begins.
    plays.pool.shutdown(cancel_futures=True)


def pytest_collection_modifyitems(items):
    for item in items:
        if is_at_once(item):
            item.fixturenames.append("plays")
    # The others have the machine to themselves: before the plays or, where they judge them, after.
    items.sort(key=lambda item: (judges_plays(item), is_at_once(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not is_at_once(pyfuncitem):
        return None
    pyfuncitem.funcargs["plays"].end(pyfuncitem)
    return True

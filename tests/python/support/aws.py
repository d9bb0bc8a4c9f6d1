"""AWS as moto's server plays it: one cluster, a service behind two target groups under `awsvpc`, one
behind a third under `bridge`, and as many tasks and container instances as there are cases."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field

import boto3
from botocore.config import Config

from support.ports import FreePort

REGION = "eu-central-1"
CLUSTER = "prod"
STOP_TIMEOUT_S = 9
APP_PORT = 8080
DELAY_S = 1
TTL_S = 4
START_S = 30
CALL_S = 20


@dataclass
class Task:
    """What ECS and the task metadata agree on."""

    arn: str
    family: str
    revision: str
    mode: str
    address: str
    groups: list
    host_port: int = APP_PORT
    instance: str | None = None
    container_instance: str | None = None

    @property
    def id(self):
        return self.arn.rsplit("/", 1)[-1]

    @property
    def target(self):
        return {"Id": self.instance or self.address, "Port": self.host_port}


@dataclass
class Instance:
    id: str
    arn: str
    ports: itertools.count = field(default_factory=lambda: itertools.count(32768))


class Moto:
    """The server, in a process of its own."""

    def __enter__(self):
        self.held = FreePort()
        self.port = self.held.number
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        # Not what the moto of this process is told.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOTO_")}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + START_S
            while not self.answers():
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError("moto's server does not start")
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.held.close()

    def answers(self):
        try:
            return self.post("state-manager/set-transition", still())
        except OSError:
            return False

    def post(self, path, body):
        request = urllib.request.Request(f"{self.url}/moto-api/{path}", json.dumps(body).encode(), method="POST")
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            return answer.status in (200, 201)


def still():
    """moto moves a task on at each DescribeTasks; real ones stay where they are."""
    return {"model_name": "ecs::task", "transition": {"progression": "manual", "times": 1000000}}


class Aws:
    def __init__(self, moto):
        self.moto = moto
        config = Config(retries={"max_attempts": 1}, read_timeout=CALL_S, max_pool_connections=20)
        session = boto3.Session("test", "test", region_name=REGION)
        self.ecs, self.ec2, self.elb, self.cloud_map = (
            session.client(name, endpoint_url=moto.url, config=config)
            for name in ("ecs", "ec2", "elbv2", "servicediscovery")
        )
        self.lock = threading.Lock()
        # What moto's DescribeTasks leaves out: by task, the fields to add.
        self.extra = {}
        # How many answers of DescribeTargetHealth still say `draining`, by target: moto forgets targets at once.
        self.draining = {}
        self.build()

    def build(self):
        self.ecs.create_cluster(clusterName=CLUSTER)
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        # moto's network interfaces need it.
        self.ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        self.subnets = [
            self.ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
                "SubnetId"
            ]
            for i, zone in enumerate("ab")
        ]
        self.network = {
            "awsvpcConfiguration": {
                "subnets": self.subnets,
                "securityGroups": [
                    self.ec2.create_security_group(GroupName="tasks", Description="tasks", VpcId=vpc)["GroupId"]
                ],
            }
        }
        balancers = self.elb.create_load_balancer(Name="web", Subnets=self.subnets)["LoadBalancers"]
        self.ip_groups = [self.target_group(f"web-{name}", vpc, "ip") for name in ("public", "internal")]
        self.instance_groups = [self.target_group("web-ec2", vpc, "instance")]
        for port, group in enumerate(self.ip_groups + self.instance_groups, 80):
            action = {"Type": "forward", "TargetGroupArn": group}
            listener = {"Protocol": "HTTP", "Port": port, "DefaultActions": [action]}
            self.elb.create_listener(LoadBalancerArn=balancers[0]["LoadBalancerArn"], **listener)
        self.definition("web", "awsvpc", "FARGATE")
        self.definition("web-ec2", "bridge", "EC2")
        self.service("web", self.ip_groups, "FARGATE", networkConfiguration=self.network)
        self.service("web-ec2", self.instance_groups, "EC2")
        operation = self.cloud_map.create_private_dns_namespace(Name="internal", Vpc=vpc)["OperationId"]
        namespace = self.cloud_map.get_operation(OperationId=operation)["Operation"]["Targets"]["NAMESPACE"]
        record = {"Type": "A", "TTL": TTL_S}
        self.name = self.cloud_map.create_service(
            Name="named", NamespaceId=namespace, DnsConfig={"NamespaceId": namespace, "DnsRecords": [record]}
        )["Service"]
        registries = [{"registryArn": self.name["Arn"]}]
        self.service("named", [], "FARGATE", networkConfiguration=self.network, serviceRegistries=registries)

    def target_group(self, name, vpc, kind):
        made = self.elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=vpc, TargetType=kind)
        group = made["TargetGroups"][0]["TargetGroupArn"]
        delay = {"Key": "deregistration_delay.timeout_seconds", "Value": str(DELAY_S)}
        self.elb.modify_target_group_attributes(TargetGroupArn=group, Attributes=[delay])
        return group

    def definition(self, family, mode, compatibility):
        ports = [{"containerPort": APP_PORT, "hostPort": 0 if mode == "bridge" else APP_PORT}]
        sidecar = {"name": "prestop", "image": "ecs-prestop", "memory": 16, "cpu": 1, "essential": False}
        self.ecs.register_task_definition(
            family=family,
            networkMode=mode,
            requiresCompatibilities=[compatibility],
            cpu="256",
            memory="512",
            containerDefinitions=[
                {"name": "app", "image": "app", "memory": 64, "cpu": 1, "portMappings": ports},
                sidecar
                | {"stopTimeout": STOP_TIMEOUT_S, "dependsOn": [{"containerName": "app", "condition": "START"}]},
            ],
        )

    def service(self, name, groups, launch_type, **more):
        balancers = [{"targetGroupArn": group, "containerName": "app", "containerPort": APP_PORT} for group in groups]
        self.ecs.create_service(
            cluster=CLUSTER,
            serviceName=name,
            taskDefinition="web" if name == "named" else name,
            desiredCount=1,
            launchType=launch_type,
            loadBalancers=balancers,
            **more,
        )

    # -- what a case needs ---------------------------------------------------------------------------

    def awsvpc_task(self, group="service:web", started_by="ecs-svc/1"):
        with self.lock:
            made = self.ecs.run_task(
                cluster=CLUSTER,
                taskDefinition="web",
                launchType="FARGATE",
                networkConfiguration=self.network,
                group=group,
                startedBy=started_by,
            )["tasks"][0]
            details = {detail["name"]: detail["value"] for detail in made["attachments"][0]["details"]}
            task = Task(made["taskArn"], "web", "1", "awsvpc", details["privateIPv4Address"], [])
            if group == "service:web":
                task.groups = self.ip_groups
            return self.registered(task)

    def named_task(self):
        """One that others find by Cloud Map, where ECS has registered it under its ID."""
        task = self.awsvpc_task("service:named")
        attributes = {"AWS_INSTANCE_IPV4": task.address}
        self.cloud_map.register_instance(ServiceId=self.name["Id"], InstanceId=task.id, Attributes=attributes)
        return task

    def loose_task(self):
        """As `aws ecs run-task` makes one."""
        return self.awsvpc_task("family:web", "somebody")

    def instance(self):
        with self.lock:
            ami, subnet = "ami-03cf127a", self.subnets[0]
            made = self.ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1, SubnetId=subnet)["Instances"][0]
            document = json.dumps({"instanceId": made["InstanceId"], "region": REGION})
            joined = self.ecs.register_container_instance(cluster=CLUSTER, instanceIdentityDocument=document)
            return Instance(made["InstanceId"], joined["containerInstance"]["containerInstanceArn"])

    def bridge_task(self, instance, register=True):
        with self.lock:
            made = self.ecs.start_task(
                cluster=CLUSTER,
                taskDefinition="web-ec2",
                containerInstances=[instance.arn],
                group="service:web-ec2",
                startedBy="ecs-svc/2",
            )["tasks"][0]
            port = next(instance.ports)
            task = Task(
                made["taskArn"],
                "web-ec2",
                "1",
                "bridge",
                "172.17.0.2",
                self.instance_groups if register else [],
                port,
                instance.id,
                instance.arn,
            )
            binding = {"bindIP": "0.0.0.0", "containerPort": APP_PORT, "hostPort": port, "protocol": "tcp"}
            containers = [{"name": "app", "networkBindings": [binding]}, {"name": "prestop", "networkBindings": []}]
            self.extra[task.arn] = {"launchType": "EC2", "containers": containers}
            return self.registered(task)

    def registered(self, task):
        for group in task.groups:
            self.elb.register_targets(TargetGroupArn=group, Targets=[task.target])
        return task

    # -- what moto is asked afterwards ---------------------------------------------------------------

    def target_states(self, task):
        return [
            self.elb.describe_target_health(TargetGroupArn=group, Targets=[task.target])["TargetHealthDescriptions"][0][
                "TargetHealth"
            ]["State"]
            for group in task.groups
        ]

    def is_named(self, task):
        listed = self.cloud_map.list_instances(ServiceId=self.name["Id"])["Instances"]
        return any(instance["Id"] == task.id for instance in listed)

    def take_name(self, task):
        """As ECS does it."""
        self.cloud_map.deregister_instance(ServiceId=self.name["Id"], InstanceId=task.id)

    def instance_status(self, instance):
        found = self.ecs.describe_container_instances(cluster=CLUSTER, containerInstances=[instance.arn])
        return found["containerInstances"][0]["status"]

    def task_state(self, task):
        found = self.ecs.describe_tasks(cluster=CLUSTER, tasks=[task.arn])["tasks"][0]
        return found["desiredStatus"], found.get("stoppedReason", "")

    # -- what moto leaves out ------------------------------------------------------------------------

    def amend(self, action, request, answer):
        if action == "ecs:DescribeTasks":
            said = json.loads(answer)
            for task in said["tasks"]:
                task.update(self.extra.get(task["taskArn"], {}))
            return json.dumps(said).encode()
        if action == "elasticloadbalancing:DescribeTargetHealth":
            for target, left in list(self.draining.items()):
                if target in request and left > 0:
                    self.draining[target] = left - 1
                    return answer.replace(b"<State>unused</State>", b"<State>draining</State>").replace(
                        b"Target.NotRegistered", b"Target.DeregistrationInProgress"
                    )
        return answer

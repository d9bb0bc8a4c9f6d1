"""Which cells there are, and how many rounds each wants."""

from dataclasses import dataclass

from .servers import SERVERS, WORKERS

# Where the balancer learns in time, by ECS, by the sidecar or by its health check.
TOLD = ("deploy-long", "deploy-short", "stop-task", "fargate-spot", "ready", "deregister", "ec2-spot")
STOPS = (*TOLD, "never")

WORKER_STOPS = ("stop-task", "ec2-spot")

# On these the methods that people use in place of a sidecar are played, too: each has a drain endpoint of its own.
SIDE_BY_SIDE = ("caddy", "envoy", "puma")
METHODS = ("nothing", "ours", "sleep", "curl", "recipe", "closing")

ROUNDS = 3
# Where ours has lost any.
ROUNDS_AFTER_A_LOSS = 20
# So many rounds of a cell may be void; then the cell says so.
VOID_ROUNDS = 4

# Each loses requests without the sidecar.
SHORT = (
    ("gunicorn-sync", "stop-task"),
    ("uvicorn", "stop-task"),
    ("caddy", "stop-task"),
    ("caddy", "ready"),
    ("envoy", "fargate-spot"),
    ("envoy", "deploy-short"),
)


@dataclass(frozen=True, order=True)
class Cell:
    server: str
    stop: str
    method: str

    @property
    def told(self) -> bool:
        return self.stop in TOLD


def cells(servers: list[str], stops: list[str], methods: list[str]) -> list[Cell]:
    """Nothing and ours everywhere, the other methods side by side on three servers, recipes where there are any."""
    wanted = []
    for stop in stops:
        for server in servers:
            for method in methods:
                # Workers answer nobody: what the balancer is told is nothing to them.
                if server in WORKERS and (stop not in WORKER_STOPS or method not in ("nothing", "recipe")):
                    continue
                if method in ("sleep", "curl") and server not in SIDE_BY_SIDE:
                    continue
                if method == "recipe" and not SERVERS[server].recipe:
                    continue
                if method == "closing" and (stop != "nlb" or not SERVERS[server].can_close):
                    continue
                wanted.append(Cell(server, stop, method))
    return wanted


def wanted_rounds(cell: Cell, rounds: int, done: list[dict]) -> int:
    """How many rounds that are not void the cell wants."""
    lost = any(round["lost"] for round in done)
    return ROUNDS_AFTER_A_LOSS if rounds == ROUNDS and cell.method == "ours" and cell.told and lost else rounds

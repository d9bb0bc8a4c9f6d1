//! `ecs-prestop simulate`: stands in for the ECS agent, the instance metadata service, and what a
//! sidecar needs of the ECS and Elastic Load Balancing APIs.
//!
//! Serves, for every container of a task definition, the task metadata endpoint v4, the agent's task
//! protection and IMDSv2, with their status codes, bodies and limits; `/_simulate/…` changes what they say, down to answers that
//! no server should give.

#![cfg_attr(
    not(feature = "laptop"),
    allow(
        dead_code,
        reason = "the stand-in of the image plays no APIs of AWS: see `serve`"
    )
)]

mod aws_api;
mod cloud_map_api;
mod control;
mod definition;
mod deployment;
mod ecs_api;
mod elb_api;
pub mod faults;
mod instance_metadata;
mod page;
mod query;
mod reply;
mod serve;
mod task_metadata;
mod task_protection;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::core::notice::Action;
use crate::tools::say;
use aws_api::AwsApi;
use cloud_map_api::PlayedName;
pub use definition::{Definition, DefinitionError};
pub use deployment::ServiceChange;
use faults::{Fault, FaultTarget, Faults};
use instance_metadata::PlayedInstanceMetadata;
use page::RequestLog;
pub use serve::Abort;
use task_protection::TaskProtection;

pub const NAME: &str = "simulate";

/// The instance on which the task runs.
const INSTANCE_ID: &str = "i-0123456789abcdef0";

pub fn command() -> Command {
    Command::new(NAME)
        .about("Stands in for ECS on a laptop: metadata, task protection, and the AWS calls of `run`")
        .arg(
            Arg::new("task-definition")
                .long("task-definition")
                .value_name("FILE")
                .help("a task definition in any form that `check` reads; without one, a task of `app` and `prestop`"),
        )
        .arg(
            Arg::new("task")
                .long("task")
                .value_name("NAME")
                .help("which task definition of a file with several"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:51678")
                .help("where it listens"),
        )
        .arg(
            Arg::new("imdsv1")
                .long("imdsv1")
                .action(ArgAction::SetTrue)
                .help("answer the instance metadata without a token, too"),
        )
}

/// Runs until it is stopped by a signal.
pub async fn main(matches: &ArgMatches) -> ExitCode {
    let stand_in = match matches
        .get_one::<String>("task-definition")
        .map(|path| Definition::read(path, matches.get_one::<String>("task").map(String::as_str)))
    {
        None => StandIn::new(Definition::sample()),
        Some(Ok(definition)) => StandIn::new(definition),
        Some(Err(why)) => {
            eprintln!("ecs-prestop simulate: {why}");
            return ExitCode::from(2);
        }
    };
    stand_in.world().instance_metadata.version_1 = matches.get_flag("imdsv1");
    let Some(&address) = matches.get_one::<SocketAddr>("listen") else {
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(why) => {
            eprintln!("ecs-prestop simulate: --listen {address}: {why}");
            return ExitCode::FAILURE;
        }
    };
    let address = listener.local_addr().unwrap_or(address);
    say(&format!(
        "The stand-in for ECS and EC2 is at http://{address}. For the containers of the task:"
    ));
    for name in stand_in.world().definition.names() {
        say(&format!(
            "  {name}: ECS_CONTAINER_METADATA_URI_V4=http://{address}/v4/{name} ECS_AGENT_URI=http://{address}/api/{name}"
        ));
    }
    say(&format!(
        "  all: AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{address} AWS_ENDPOINT_URL=http://{address} \
         AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none"
    ));
    say(&format!(
        "A Spot notice: curl -X POST 'http://{address}/_simulate/spot?action=terminate&in=120s'"
    ));
    let (mailbox, mut messages) = crate::sidecar::mailbox::channel();
    let Ok(signals) = crate::sidecar::watch::signals::Signals::take() else {
        return ExitCode::FAILURE;
    };
    tokio::select! {
        served = stand_in.serve(listener) => {
            if let Err(why) = served {
                eprintln!("ecs-prestop simulate: {why}");
            }
            ExitCode::FAILURE
        }
        _ = signals.watch(mailbox) => ExitCode::FAILURE,
        _ = messages.recv() => ExitCode::SUCCESS,
    }
}

/// The stand-in; a handle that can be cloned.
#[derive(Clone)]
pub struct StandIn {
    world: Arc<Mutex<World>>,
    /// Rung when connections are to be refused from now on.
    refusing: Arc<Notify>,
}

struct World {
    definition: Definition,
    instance_metadata: PlayedInstanceMetadata,
    aws: AwsApi,
    task_protection: TaskProtection,
    faults: Faults,
    requests: RequestLog,
}

impl StandIn {
    /// For a task; nothing is announced and nothing is broken.
    pub fn new(definition: Definition) -> StandIn {
        StandIn {
            world: Arc::new(Mutex::new(World {
                aws: AwsApi::new(&definition),
                definition,
                instance_metadata: PlayedInstanceMetadata::default(),
                task_protection: TaskProtection::default(),
                faults: Faults::default(),
                requests: RequestLog::default(),
            })),
            refusing: Arc::default(),
        }
    }

    /// For a task of an `app` and a `prestop` container.
    pub fn sample() -> StandIn {
        StandIn::new(Definition::sample())
    }

    /// EC2 takes the instance back.
    pub fn announce_spot(&self, action: Action, left: Duration) {
        self.world().instance_metadata.announce_spot(action, left);
    }

    /// ECS knows that a container has stopped.
    pub fn container_stopped(&self, name: &str) {
        self.world().definition.set_status(name, "STOPPED");
    }

    /// ECS has not begun to make that container.
    pub fn container_not_created(&self, name: &str) {
        let not_created = definition::NOT_CREATED;
        self.world().definition.set_status(name, not_created);
    }

    /// From now on ECS knows that container as RUNNING.
    pub fn container_running(&self, name: &str) {
        self.world().definition.set_status(name, "RUNNING");
    }

    /// From now on ECS wants the task STOPPED.
    pub fn stopping(&self) {
        self.world().definition.desired_status = "STOPPED";
    }

    /// A container has this address of its own.
    pub fn container_at(&self, name: &str, address: IpAddr) {
        self.world().definition.resolve(name, vec![address]);
    }

    /// AWS plans to work on the host.
    pub fn announce_maintenance(&self, state: &str, left: Duration) {
        let (code, state) = ("system-reboot".to_owned(), state.to_owned());
        self.world()
            .instance_metadata
            .announce_maintenance(code, state, left);
    }

    /// An interruption has become likely.
    pub fn recommend_rebalance(&self) {
        self.world().instance_metadata.recommend_rebalance();
    }

    /// Auto Scaling says what it is about to do.
    pub fn set_lifecycle_state(&self, state: &str) {
        self.world().instance_metadata.autoscaling = Some(state.to_owned());
    }

    /// Whether the task is protected from scale-in and deployments now.
    pub fn protected(&self) -> bool {
        self.world().task_protection.is_on()
    }

    /// How often task protection was changed or prolonged, and how often that was tried.
    pub fn protection_calls(&self) -> (u64, u64) {
        self.world().task_protection.calls()
    }

    /// Whatever was announced is taken back.
    pub fn withdraw(&self) {
        self.world().instance_metadata.withdraw();
    }

    /// The task runs on Fargate Spot, behind a load balancer of this machine that knows another task,
    /// too.
    pub fn balance(&self, task: SocketAddr, other: SocketAddr, delay: Duration) {
        let mut world = self.world();
        world.definition.fargate_spot = true;
        world.aws.balance(task, other, delay);
    }

    /// The task is found by a name of Cloud Map, too: by DNS with that TTL, or where there is none without DNS.
    pub fn find_by_name(&self, ttl: Option<Duration>) {
        self.world().aws.name = Some(PlayedName::new(ttl));
    }

    /// ECS takes the task out of Cloud Map.
    pub fn deregister_name(&self) {
        if let Some(name) = &mut self.world().aws.name {
            name.leave_by_ecs();
        }
    }

    /// Where the load balancer sends its next request: to each registered target in turn; `None`
    /// where there is none.
    pub fn route(&self) -> Option<SocketAddr> {
        self.world().aws.route()
    }

    /// From now on `DescribeServices` has these fields in place of its own: what a deployment or a scale-in
    /// would bring.
    pub fn service_says(&self, fields: serde_json::Value) {
        self.world().aws.service_says(fields);
    }

    /// From now on this is what happens to the service of the task.
    pub fn change_service(&self, change: ServiceChange) {
        self.world().aws.change = change;
    }

    /// Whether somebody drains the container instance.
    pub fn drain_instance(&self, draining: bool) {
        self.world().aws.draining_instance = draining;
    }

    /// How often each operation of ECS was called.
    pub fn ecs_calls(&self) -> BTreeMap<String, u64> {
        self.world().aws.calls.clone()
    }

    /// ECS stops the task; code and reason as `DescribeTasks` has them from now on.
    pub fn task_stops(&self, code: &str, reason: &str) {
        self.world().aws.stop(code, reason);
    }

    /// ECS takes the task out of its target groups; whether it was still in one.
    pub fn deregister_task(&self) -> bool {
        let World { definition, aws, .. } = &mut *self.world();
        aws.deregister_task(definition)
    }

    /// All tokens are worthless from now on.
    pub fn expire_tokens(&self) {
        self.world().instance_metadata.expire_tokens();
    }

    /// How many tokens were handed out.
    pub fn tokens_made(&self) -> u64 {
        self.world().instance_metadata.tokens_made()
    }

    /// Breaks a service until told otherwise.
    pub fn break_down(&self, fault: Fault) {
        self.world().faults.set(fault);
        self.refusing.notify_waiters();
    }

    /// Whether connections to a service are refused now; for transports other than TCP.
    pub fn refuses(&self, target: FaultTarget) -> bool {
        self.world().faults.refusing(&[target]).is_some()
    }

    /// No code panics while it holds the lock; if one did, the data would still be whole.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! How the load balancer in front of a task learns that it is about to end, as far as a template tells.

use crate::config::SETTLE_BEFORE_QUIET;
use crate::core::deadline::CEILING;
use crate::core::url::HttpUrl;
use crate::tools::model::{ContainerDefinition, NetworkMode, Service, TaskDefinition};

use super::definition::Times;
use super::{AddOptions, NotAdded};

const PORT: u16 = 9911;

/// How the load balancer learns that the task is about to end.
#[derive(Default)]
pub(super) struct Balancer {
    pub(super) asks_the_sidecar: bool,
    pub(super) ready_url: Option<String>,
    pub(super) deregisters: bool,
    pub(super) settle: Option<String>,
    pub(super) story: Option<String>,
}

pub(super) fn balancer(
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    options: &AddOptions,
    times: &Times,
) -> Result<Balancer, NotAdded> {
    let mut balancer = told(task, app, options, times)?;
    leave_names(task, times, &mut balancer);
    let Some((seconds, why)) = looked_away_after(task).filter(|_| options.settle_s.is_none()) else {
        return Ok(balancer);
    };
    let settle = seconds.min(longest_settle(times));
    let already = balancer.settle.as_deref().and_then(crate::config::duration);
    if already.unwrap_or(SETTLE_BEFORE_QUIET).as_secs() < settle {
        balancer.settle = Some(format!("{settle}s"));
        let words = format!("it serves on for {settle} s before that, since {why}");
        balancer.story = Some(match balancer.story {
            Some(story) => format!("{story}; {words}"),
            None => words,
        });
    }
    Ok(balancer)
}

/// On an instance that is Spot, nobody else takes the task out of Cloud Map before the host goes.
fn leave_names(task: &TaskDefinition<'_>, times: &Times, balancer: &mut Balancer) {
    let spot = times.capacity.as_deref() == Some("spot") && task.on_fargate() != Some(true);
    let mut named = task.services.iter().filter(|service| service.dns_ttl_s.is_some());
    let Some(service) = named.next().filter(|_| spot && !task.task_role.is_absent()) else {
        return;
    };
    let words = format!(
        "on Spot it takes the task out of the name of `{}` in Cloud Map itself (PRESTOP_DEREGISTER), for which the task role \
         needs task-definitions/iam/sidecar-deregister.json and sidecar-cloud-map.json",
        service.name
    );
    balancer.deregisters = true;
    balancer.story = Some(match balancer.story.take() {
        Some(story) => format!("{story}; {words}"),
        None => words,
    });
}

/// What a Network Load Balancer takes at least (aws/containers-roadmap #470).
const NETWORK_S: u64 = 30;

/// After how many seconds clients and load balancers have looked away that are not told at once, and why.
fn looked_away_after(task: &TaskDefinition<'_>) -> Option<(u64, String)> {
    let of_service = |service: &Service<'_>| {
        let ttl = service.dns_ttl_s.map(|(seconds, _)| {
            (
                seconds,
                format!("clients keep an address of `{}` for {seconds} s", service.name),
            )
        });
        let network = service
            .target_groups
            .iter()
            .find(|group| group.is_network())
            .map(|group| {
                let why = format!(
                    "`{}` belongs to a Network Load Balancer, which sends for longer than that",
                    group.name
                );
                (NETWORK_S, why)
            });
        ttl.into_iter().chain(network).max_by_key(|(seconds, _)| *seconds)
    };
    task.services
        .iter()
        .filter_map(of_service)
        .max_by_key(|(seconds, _)| *seconds)
}

/// Half of the time at most goes to the settle.
fn longest_settle(times: &Times) -> u64 {
    let left = CEILING.as_secs().saturating_sub(times.reserve_s.unwrap_or(0));
    times.stop_s.saturating_sub(1).min(left) / 2
}

/// How it learns of it at once.
fn told(
    task: &TaskDefinition<'_>,
    app: &ContainerDefinition<'_>,
    options: &AddOptions,
    times: &Times,
) -> Result<Balancer, NotAdded> {
    let groups = || task.services.iter().flat_map(|service| &service.target_groups);
    let asking =
        groups().find(|group| group.health_port.known().and_then(|port| port.parse().ok()) == Some(PORT));
    let mut balancer = Balancer {
        settle: options.settle_s.map(|seconds| format!("{seconds}s")),
        ..Balancer::default()
    };
    if let Some(group) = asking {
        balancer.asks_the_sidecar = true;
        balancer.ready_url = options.ready_url.clone().or(own_health(task, app));
        let longest = longest_settle(times);
        let settle = group.unhealthy_after_s().unwrap_or(longest).min(longest);
        balancer.settle.get_or_insert(format!("{settle}s"));
        let asks = match &balancer.ready_url {
            Some(url) => format!("`/ready` asks {url}"),
            None => "`/ready` says yes from its start on (ask the app by --ready-url)".to_owned(),
        };
        balancer.story = Some(format!(
            "the health check of `{}` asks the sidecar, which says no from the notice on and serves on for {settle} s, until \
             that is noticed; {asks}; allow port {PORT} in the security group",
            group.name
        ));
        return Ok(balancer);
    }
    let spot = times.capacity.as_deref() == Some("spot");
    let Some(group) = groups().next().filter(|_| spot) else {
        return Ok(balancer);
    };
    let on_fargate = task.on_fargate() == Some(true);
    if !task.task_role.is_absent() {
        balancer.deregisters = true;
        balancer.story = Some(format!(
            "on Spot it first takes the task out of `{}` itself (PRESTOP_DEREGISTER), for which the task role needs \
             task-definitions/iam/sidecar-deregister.json",
            group.name
        ));
    } else if on_fargate {
        balancer.settle.get_or_insert("5s".to_owned());
        balancer.story = Some(format!(
            "on Fargate Spot ECS takes the task out of `{}` before SIGTERM, and the sidecar serves on meanwhile",
            group.name
        ));
    } else {
        return Err(NotAdded::because(format!(
            "nobody would tell `{}` that this Spot task is about to end: give the task a role with the policy \
             task-definitions/iam/sidecar-deregister.json, or point the health check at the sidecar (HealthCheckPort 9911, \
             HealthCheckPath /ready)",
            group.name
        )));
    }
    Ok(balancer)
}

/// What the app's own health check asks by HTTP, for the sidecar to ask in its place.
fn own_health(task: &TaskDefinition<'_>, app: &ContainerDefinition<'_>) -> Option<String> {
    let words = app.health_check.known()?;
    let mut words = words.iter().flat_map(|words| words.split_whitespace());
    let url = words.find(|word| word.trim_matches(['"', '\'']).starts_with("http://"))?;
    let url: HttpUrl = url.trim_matches(['"', '\'']).parse().ok()?;
    let is_own = matches!(url.host(), "localhost" | "127.0.0.1");
    if !is_own {
        return None;
    }
    let host = match (app.name.literal, task.network()) {
        (true, _) => app.name.text.as_ref(),
        (false, NetworkMode::Shared) => "127.0.0.1",
        (false, _) => return None,
    };
    let whole = url.to_string();
    Some(whole.replacen(&format!("//{}", url.host()), &format!("//{host}"), 1))
}

//! What a task definition says of how it is placed: launch type, limits, ports of the host. The stand-in
//! serves it; no rule asks for it.

use super::fields::Fields;
use super::{ContainerDefinition, DocumentForm, TaskDefinition, Value};

/// On what a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredLaunchType {
    /// On an instance of one's own; also where the file does not say.
    Ec2,
    Fargate,
    /// On an instance that ECS manages.
    ManagedInstances,
}

/// A port of a container and where it is found on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    pub container: u16,
    /// `hostPort`, where it is given.
    pub host: Option<u16>,
    pub udp: bool,
}

impl<'a> TaskDefinition<'a> {
    /// On what it runs, as far as the file says.
    pub fn launch_type(&self) -> DeclaredLaunchType {
        match self.on_fargate() {
            _ if self.on_managed_instances() => DeclaredLaunchType::ManagedInstances,
            Some(true) => DeclaredLaunchType::Fargate,
            _ => DeclaredLaunchType::Ec2,
        }
    }

    /// `revision`, where it was registered already.
    pub fn revision(&self) -> Option<u64> {
        Fields::of(self.form, self.node)
            .whole("revision")
            .known()
            .copied()
    }

    /// `cpu` of the task, in vCPU: `256`, `0.25 vCPU` (API reference, *RegisterTaskDefinition*).
    pub fn cpu(&self) -> Option<f64> {
        if self.form == DocumentForm::Compose {
            return None;
        }
        let cpu = Fields::of(self.form, self.node).text("cpu");
        let word = cpu.known()?.trim().to_ascii_lowercase();
        let (number, units) = match word.strip_suffix("vcpu") {
            Some(number) => (number.trim(), 1.0),
            None => (word.as_str(), 1024.0),
        };
        let number: f64 = number.parse().ok()?;
        number.is_finite().then_some(number / units)
    }

    /// The ports of one of its containers, as far as they are known.
    pub fn port_mappings(&self, container: &ContainerDefinition<'a>) -> Vec<PortMapping> {
        let fields = Fields::of(self.form, container.node);
        if self.form == DocumentForm::Compose {
            let (items, _) = fields.items("ports");
            let published = items.iter().filter_map(|item| match item.word() {
                Some(word) => of_compose(&word),
                None => {
                    let port = Fields::of(self.form, item);
                    Some(PortMapping {
                        container: number(&port.whole("target"))?,
                        host: number(&port.whole("published")),
                        udp: port.text("protocol").known().is_some_and(|word| word == "udp"),
                    })
                }
            });
            return published.collect();
        }
        let (items, _) = fields.items("portMappings");
        let mappings = items.iter().filter_map(|item| {
            let mapping = Fields::of(self.form, item);
            Some(PortMapping {
                container: number(&mapping.whole("containerPort"))?,
                host: number(&mapping.whole("hostPort")),
                udp: mapping.text("protocol").known().is_some_and(|word| word == "udp"),
            })
        });
        mappings.collect()
    }
}

impl ContainerDefinition<'_> {
    /// `cpu` of the container, in units of which a vCPU has 1024.
    pub fn cpu_units(&self, form: DocumentForm) -> Option<u64> {
        if form == DocumentForm::Compose {
            return None;
        }
        Fields::of(form, self.node).whole("cpu").known().copied()
    }
}

/// Zero asks for any port.
fn number(value: &Value<'_, u64>) -> Option<u16> {
    value
        .known()
        .and_then(|port| u16::try_from(*port).ok())
        .filter(|port| *port > 0)
}

/// `8080`, `80:8080`, `127.0.0.1:80:8080/udp` (compose file reference, *ports*).
fn of_compose(word: &str) -> Option<PortMapping> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let mut parts = ports.rsplit(':');
    Some(PortMapping {
        container: parts.next()?.parse().ok()?,
        host: parts.next().and_then(|port| port.parse().ok()),
        udp: protocol == "udp",
    })
}

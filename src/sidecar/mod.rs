//! The shell does: it feeds what happens to the core and carries out what that commands.
//!
//! - [`run`]: the one loop; [`mailbox`]: its one channel
//! - [`watch`]: where notices come from
//! - [`drain`]: how a step is done
//! - [`aws_side`]: the sidecar's dealings with AWS; [`aws`]: how AWS is asked
//! - [`protection`]: task protection at work, beside the drain
//! - [`http`]: the one small HTTP client; [`task_metadata`]: what ECS says of this task; [`clock`]: what time it is
//! - [`endpoints`], [`status`], [`telemetry`]: what others may see

pub mod aws;
pub mod aws_side;
pub mod clock;
pub mod drain;
pub mod endpoints;
pub mod http;
pub mod mailbox;
pub mod protection;
pub mod run;
pub mod status;
pub mod superseded;
pub mod task_metadata;
pub mod telemetry;
pub mod watch;

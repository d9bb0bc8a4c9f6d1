//! The shell does: it feeds what happens to the core and carries out what that commands.
//!
//! - [`run`]: the one loop; [`mailbox`]: its one channel
//! - [`watch`]: where notices come from
//! - [`drain`]: how a step is done
//! - [`aws`]: what is asked of AWS
//! - [`protection`]: task protection at work, beside the drain
//! - [`http`]: the one small HTTP client; [`clock`]: what time it is
//! - [`endpoints`], [`status`], [`telemetry`]: what others may see

pub mod aws;
pub mod clock;
pub mod drain;
pub mod endpoints;
pub mod http;
pub mod mailbox;
pub mod protection;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod watch;

//! Stop timeouts and what they add up to.

pub(super) mod budget_eaten;
pub(in crate::tools::check) mod own_limit;
pub(super) mod stop_timeout_differs;
pub(super) mod stop_timeout_missing;
pub(super) mod stop_timeout_on_spot;
pub(super) mod stop_timeout_range;
pub(super) mod stops_in_sum;

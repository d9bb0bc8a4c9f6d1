//! The rules, one a file. Each is a [`Rule`]: what it is called, why it matters, how to mend what it
//! finds, where its facts come from, an example that breaks it, and the function that looks.
//!
//! A rule knows the model and nothing of files, forms or output. It says nothing of what it cannot know.

use crate::tools::model::{DocumentForm, TaskDefinition};

use super::{Findings, Persona, Severity};

mod examples;
mod order;
mod settings;
mod sidecar;
pub mod signals;
mod surroundings;
mod time;

pub use examples::Example;
pub(super) use time::own_limit;

/// One thing that can be wrong with a task definition.
#[derive(Debug)]
pub struct Rule {
    /// `PS` and three digits; never given to another rule.
    pub id: &'static str,
    /// A short name in words.
    pub name: &'static str,
    /// What its findings are, unless one says otherwise.
    pub severity: Severity,
    /// Whom its findings are for, unless one says otherwise.
    pub persona: Persona,
    /// Whether it makes sense for a compose file, too.
    pub compose: bool,
    /// What goes wrong.
    pub why: &'static str,
    pub mend: &'static str,
    /// Where the facts come from.
    pub source: &'static str,
    /// A task definition that passes, and the change that breaks it.
    pub example: Example,
    pub check: for<'a> fn(&TaskDefinition<'a>, &mut Findings<'a>),
}

impl Rule {
    /// Whether it makes sense for this form.
    pub fn applies_to(&self, form: DocumentForm) -> bool {
        form != DocumentForm::Compose || self.compose
    }
}

impl Rule {
    /// Whether it is about the order in which containers start and stop: PS001 to PS009.
    pub fn is_about_order(&self) -> bool {
        self.id < "PS010"
    }
}

/// All of them, by their ids.
pub static RULES: &[Rule] = &[
    order::sidecar_before_app::RULE,
    order::app_before_sidecar::RULE,
    order::circle::RULE,
    order::unknown_dependency::RULE,
    order::log_router::RULE,
    order::needed::RULE,
    order::condition::RULE,
    order::stops_with_sidecar::RULE,
    time::stop_timeout_missing::RULE,
    time::stop_timeout_range::RULE,
    time::stop_timeout_on_spot::RULE,
    time::stops_in_sum::RULE,
    time::stop_timeout_differs::RULE,
    time::budget_eaten::RULE,
    time::own_limit::RULE,
    signals::shell::RULE,
    signals::init_process::RULE,
    signals::signal_step::RULE,
    signals::stop_signal::RULE,
    settings::invalid::RULE,
    settings::step_to_nobody::RULE,
    settings::step_to_closed_port::RULE,
    settings::apart::RULE,
    settings::token_in_plain_text::RULE,
    settings::ack_without_endpoint::RULE,
    settings::quiet_unseen::RULE,
    sidecar::essential::RULE,
    sidecar::health_check::RULE,
    sidecar::writable_root::RULE,
    sidecar::memory::RULE,
    sidecar::task_role::RULE,
    sidecar::restarts::RULE,
    sidecar::host_port::RULE,
    surroundings::blocking_log::RULE,
    surroundings::deregistration_delay::RULE,
    surroundings::green_health_check::RULE,
    surroundings::minimum_healthy::RULE,
    surroundings::loopback_health_check::RULE,
    surroundings::undrained_spot::RULE,
    surroundings::only_spot::RULE,
    surroundings::scheduled_on_spot::RULE,
    surroundings::slow_to_look_away::RULE,
    surroundings::settle_behind_connect::RULE,
    surroundings::names::RULE,
    surroundings::types::RULE,
    surroundings::no_delay::RULE,
];

/// The rule of this id, in any case.
///
/// # Errors
/// Where there is none, with what to do.
pub fn find(id: &str) -> Result<&'static Rule, String> {
    RULES
        .iter()
        .find(|rule| rule.id.eq_ignore_ascii_case(id))
        .ok_or_else(|| format!("`{id}` is no rule; `ecs-prestop check --list` lists them"))
}

/// Seconds as people write them: `30 s`, `1.5 s`.
fn seconds(seconds: f64) -> String {
    format!("{} s", (seconds * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::check::{Selection, check};
    use crate::tools::source::Source;

    fn found(text: &str) -> Vec<&'static str> {
        let source = Source::new("example", text.to_owned());
        let selection = Selection {
            persona: Persona::Pedantic,
            ..Selection::default()
        };
        let checked = check(source, &selection).unwrap().unwrap();
        checked.findings.iter().map(|finding| finding.rule.id).collect()
    }

    #[test]
    fn each_rule_finds_its_failing_example_and_all_rules_pass_the_other() {
        for rule in RULES {
            let failing = rule.example.failing();
            assert_ne!(failing, rule.example.passing, "{}: nothing is broken", rule.id);
            assert_eq!(found(rule.example.passing), [""; 0], "{} passing", rule.id);
            assert_eq!(found(&failing), [rule.id], "{} failing:\n{failing}", rule.id);
        }
    }

    #[test]
    fn ids_go_up_and_none_is_given_twice() {
        assert!(RULES.is_sorted_by(|a, b| a.id < b.id));
    }
}

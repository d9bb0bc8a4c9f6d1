//! What a rehearsal writes for programs: a JSON document a line, or JUnit's XML.

use super::record::{Record, RehearsalOutcome};
use crate::tools::picture::svg::escaped;

/// One document a line; see [`Record`].
pub(super) fn json(record: &Record) -> String {
    // Plain data with text keys: it serialises.
    serde_json::to_string(record).unwrap_or_default()
}

/// One test case a scenario, as CI systems read it.
pub(super) fn junit(records: &[Record]) -> String {
    let failed = records.iter().filter(|record| !record.outcome.is_well()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"ecs-prestop rehearse\" \
         tests=\"{}\" failures=\"{failed}\">\n",
        records.len()
    );
    for record in records {
        let (name, words) = (escaped(&record.scenario), escaped(&record.words));
        let kind = match record.outcome {
            RehearsalOutcome::Passed | RehearsalOutcome::LostAsExpected => None,
            RehearsalOutcome::Failed => Some("failed"),
            RehearsalOutcome::NothingTested => Some("nothing-tested"),
        };
        let inner = match kind {
            Some(kind) => format!("<failure type=\"{kind}\" message=\"{words}\"/>"),
            None => format!("<system-out>{words}</system-out>"),
        };
        xml.push_str(&format!(
            "<testcase classname=\"ecs-prestop.rehearse\" name=\"{name}\">{inner}</testcase>\n"
        ));
    }
    xml.push_str("</testsuite>\n</testsuites>");
    xml
}

//! Durations as people write them.

use std::time::Duration;

use jiff::SignedDuration;

/// `90s`, `1m30s`, `1500ms`; a bare number is seconds. `None` where it is none, or negative.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | 'µ');
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(plain) {
        return None;
    }
    let bare = text.ends_with(|c: char| c.is_ascii_digit());
    let with_unit = if bare { format!("{text}s") } else { text.to_owned() };
    let parsed: SignedDuration = with_unit.parse().ok()?;
    Duration::try_from(parsed).ok()
}

//! The parameters of a request that changes what the stand-in says: read here, so that what they change need not know who was asked.

use std::time::Duration;

use crate::config;

/// What stands behind the question mark.
#[derive(Clone, Copy)]
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(_, value)| !value.is_empty())
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    pub(super) fn duration(self, name: &str, default_s: u64) -> Result<Duration, String> {
        match self.get(name) {
            None => Ok(Duration::from_secs(default_s)),
            Some(text) => config::duration(text)
                .ok_or_else(|| format!("{name} is `{text}`: write a duration such as 120s")),
        }
    }

    pub(super) fn number(self, name: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| format!("{name} is `{text}`: write a number"))
    }
}

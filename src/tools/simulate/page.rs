//! The page at `/`: what this is, what it says now, who has asked, and a button for each thing that can
//! happen.

use std::collections::VecDeque;

use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

/// What fits on a screen; older ones are forgotten.
const MAX_REQUESTS: usize = 50;

/// A path that is longer is cut: it is shown, not kept.
const MAX_PATH: usize = 120;

/// The last requests, newest first.
#[derive(Default)]
pub(super) struct RequestLog(VecDeque<Asked>);

/// One request and its answer.
#[derive(Clone, Serialize)]
pub(super) struct Asked {
    at: String,
    method: String,
    path: String,
    /// Missing where the connection was broken in place of an answer.
    status: Option<u16>,
}

impl RequestLog {
    pub(super) fn add(&mut self, method: &Method, path: &str, status: Option<StatusCode>) {
        self.0.truncate(MAX_REQUESTS - 1);
        self.0.push_front(Asked {
            at: format!("{:.3}", Timestamp::now()),
            method: method.to_string(),
            path: path.chars().take(MAX_PATH).collect(),
            status: status.map(|status| status.as_u16()),
        });
    }

    pub(super) fn all(&self) -> Vec<Asked> {
        self.0.iter().cloned().collect()
    }
}

/// It asks `/_simulate/state` for everything that it shows, as text and never as markup.
pub(super) const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width">
<title>The stand-in for ECS and EC2</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
button{font:inherit;margin:.2rem .3rem .2rem 0}
pre,table{font-size:13px}
td{padding:0 .8rem 0 0;font-family:monospace}
</style>
<h1>The stand-in for ECS and EC2</h1>
<p>It serves the task metadata of each container, IMDSv2, task protection and the AWS calls of the sidecar, and
says what it is told to say. <code>ecs-prestop simulate --help</code> has the rest.</p>
<h2>Let something happen</h2>
<p id="buttons"></p>
<h2>What it says now</h2>
<pre id="state"></pre>
<h2>Who has asked</h2>
<table id="requests"></table>
<script>
const actions = [
  ['Spot notice, 2 minutes', 'POST', 'spot?action=terminate&in=120s'],
  ['take it back', 'DELETE', 'spot'],
  ['rebalance recommendation', 'POST', 'rebalance'],
  ['maintenance in 2 minutes', 'POST', 'maintenance?in=120s'],
  ['Auto Scaling terminates', 'POST', 'autoscaling'],
  ['all tokens expire', 'POST', 'tokens'],
  ['instance metadata hangs for 10 s', 'POST', 'fault?target=imds&kind=hang&for=10s'],
  ['task metadata answers 500 for 10 s', 'POST', 'fault?target=tmds&kind=status&status=500&for=10s'],
  ['everything is mended', 'DELETE', 'fault'],
];
const byId = (id) => document.getElementById(id);
const show = async (answer) => {
  const text = await answer.text();
  if (!answer.ok) { byId('state').textContent = text; return; }
  const { requests, ...state } = JSON.parse(text);
  byId('state').textContent = JSON.stringify(state, null, 2);
  byId('requests').replaceChildren(...requests.map((one) => {
    const row = document.createElement('tr');
    for (const cell of [one.at, one.method, one.path, one.status ?? 'broken']) {
      row.insertCell().textContent = cell;
    }
    return row;
  }));
};
for (const [name, method, what] of actions) {
  const button = document.createElement('button');
  button.textContent = name;
  button.onclick = async () => show(await fetch('/_simulate/' + what, { method }));
  byId('buttons').append(button);
}
const refresh = async () => show(await fetch('/_simulate/state'));
refresh();
setInterval(refresh, 1000);
</script>
</html>
"#;

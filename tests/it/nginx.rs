//! nginx in a test: its settings, and the command that starts it in the foreground.

use std::fs;
use std::path::Path;
use std::process::Command;

/// One worker with these settings of its `http` block; what it keeps on disk is under `folder`. Requests are logged as
/// `METHOD URI STATUS`, a line each.
pub fn command(nginx: &Path, folder: &Path, http: &str) -> Command {
    let at = folder.join("nginx");
    fs::create_dir_all(&at).expect("a folder");
    let root = at.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {root}/pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  log_format short '$request_method $uri $status';
  access_log {root}/access.log short;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {http}
}}
"
    );
    fs::write(at.join("nginx.conf"), text).expect("settings");
    let mut command = Command::new(nginx);
    command.arg("-p").arg(&at).arg("-e").arg("stderr").arg("-c").arg(at.join("nginx.conf"));
    command
}

//! The recordings in the recording root, and the only way to them.
//!
//! Owns the rule that no request leads out of that folder: a path is taken apart, and what it leads to is looked at before it is
//! used, links included. Never opens a recording in this process.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::{Value as Json, json};

use super::Shared;
use super::views::problem;

/// Most recordings in a list, the newest.
const MOST_LISTED: usize = 1000;

/// Folders within folders that are looked into.
const DEEPEST: usize = 6;

/// How long a look into a recording may take.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// The file below `root` that a request names, if it is a recording there.
pub(crate) fn resolve(root: &Path, name: &str) -> Option<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.contains('\0') || !plain || relative.extension() != Some(OsStr::new("h5")) {
        return None;
    }
    let root = root.canonicalize().ok()?;
    let path = root.join(relative).canonicalize().ok()?;
    (path.starts_with(&root) && path.is_file()).then_some(path)
}

struct Listed {
    name: String,
    bytes: u64,
    modified: SystemTime,
}

/// `/api/v1/sessions`: the newest first.
pub(crate) fn list(root: &Path) -> Json {
    let mut found = Vec::new();
    collect(root, Path::new(""), DEEPEST, &mut found);
    found.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
    let is_cut = found.len() > MOST_LISTED;
    found.truncate(MOST_LISTED);
    let sessions: Vec<_> = found
        .into_iter()
        .map(|file| {
            let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            json!({ "name": file.name, "bytes": file.bytes, "modified_utc_s": modified })
        })
        .collect();
    json!({ "sessions": sessions, "cut": is_cut })
}

fn collect(root: &Path, below: &Path, depth: usize, found: &mut Vec<Listed>) {
    let Ok(entries) = std::fs::read_dir(root.join(below)) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (below.join(entry.file_name()), entry.file_type()) else { continue };
        if kind.is_dir() && depth > 0 {
            collect(root, &path, depth - 1, found);
        } else if kind.is_file()
            && path.extension() == Some(OsStr::new("h5"))
            && let (Some(name), Ok(facts)) = (path.to_str(), entry.metadata())
        {
            let modified = facts.modified().unwrap_or(UNIX_EPOCH);
            found.push(Listed { name: name.to_owned(), bytes: facts.len(), modified });
        }
    }
}

/// `/api/v1/sessions/{name}`: what is in a recording, as `youquanti inspect --json` says it.
pub(crate) async fn inspect(shared: web::Data<Shared>, name: &str) -> HttpResponse {
    let Some(inspector) = &shared.options.inspector else {
        return problem(StatusCode::NOT_IMPLEMENTED, "no_inspector", "this server only lists recordings");
    };
    let Some(path) = resolve(&shared.options.recordings, name) else {
        return problem(StatusCode::NOT_FOUND, "unknown", "there is no such recording");
    };
    let Ok(_one_at_a_time) = shared.inspections.acquire().await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "ended", "the server is closing");
    };
    let mut command = tokio::process::Command::new(inspector);
    command.args(["inspect", "--json"]).arg(&path).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LOOK_WITHIN, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            HttpResponse::Ok().content_type("application/json").body(output.stdout)
        }
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            problem(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", &words)
        }
        Ok(Err(error)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", &format!("no process for it: {error}"))
        }
        Err(_) => {
            problem(StatusCode::GATEWAY_TIMEOUT, "slow", "the recording could not be read within a minute")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("recordings");
        fs::create_dir_all(root.join("sub-1")).unwrap();
        for file in ["a.h5", "sub-1/b.h5", "notes.txt"] {
            fs::write(root.join(file), "x").unwrap();
        }
        fs::write(dir.path().join("secret.h5"), "x").unwrap();
        symlink(dir.path().join("secret.h5"), root.join("link.h5")).unwrap();
        symlink(dir.path(), root.join("up")).unwrap();
        let real = root.canonicalize().unwrap();
        assert_eq!(resolve(&root, "a.h5"), Some(real.join("a.h5")));
        assert_eq!(resolve(&root, "sub-1/b.h5"), Some(real.join("sub-1/b.h5")));
        for bad in [
            "",
            ".",
            "..",
            "../secret.h5",
            "sub-1/../../secret.h5",
            "/etc/passwd",
            "link.h5",
            "up/secret.h5",
            "notes.txt",
            "none.h5",
            "a.h5\0",
            "sub-1",
            "./a.h5/..",
            "//a.h5",
        ] {
            assert_eq!(resolve(&root, bad), None, "{bad:?}");
        }
        let listed = list(&root);
        let mut names: Vec<_> =
            listed["sessions"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a.h5", "sub-1/b.h5"]);
    }
}

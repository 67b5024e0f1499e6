//! Where this program keeps what it can make again, for this user alone: `$XDG_CACHE_HOME/youquanti`, else `~/.cache/youquanti`.

use std::env;
use std::path::PathBuf;

/// The folder of that name in the cache, there or not; `None` where neither variable names an absolute path. What lies in it is
/// run, so that it is never a folder that others can write to.
pub fn folder(name: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let root = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    root.map(|root| root.join("youquanti").join(name))
}

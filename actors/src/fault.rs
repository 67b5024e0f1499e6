//! Named points at which a test makes an actor panic.
//!
//! Without the feature `testing` a point compiles to nothing. Never used to change what an actor does,
//! only to end it.

/// Panics if a test has armed `name`.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Panics if a test has armed `name`.
#[cfg(feature = "testing")]
pub fn point(name: &'static str) {
    use std::sync::PoisonError;
    let mut armed = armed().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, passes)) = armed.iter_mut().find(|(armed_name, _)| *armed_name == name) {
        if *passes > 0 {
            *passes -= 1;
            return;
        }
        armed.retain(|(armed_name, _)| *armed_name != name);
        drop(armed);
        panic!("injected fault at {name}");
    }
}

#[cfg(feature = "testing")]
fn armed() -> &'static std::sync::Mutex<Vec<(&'static str, u32)>> {
    static ARMED: std::sync::Mutex<Vec<(&'static str, u32)>> = std::sync::Mutex::new(Vec::new());
    &ARMED
}

/// Makes the point `name` panic once, after it was passed `passes` times unharmed.
#[cfg(feature = "testing")]
pub fn arm(name: &'static str, passes: u32) {
    armed().lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((name, passes));
}

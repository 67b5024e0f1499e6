//! How busy the machine's GPUs are.
//!
//! Owns the newest look at them, which all clients share: the driver is asked once a second at most, on a thread that may wait.
//! A driver that does not answer is not asked again. Never touches what a session computes with.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;
use youquanti_actors::clock::SystemClock;
use youquanti_gpu::probe::{GpuLoad, gpu_loads};
use youquanti_models::{Clock, Timestamp};

use super::Shared;

/// How long a look is as good as a new one.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How long the driver may take: some wake devices up first.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Devices, or why nothing is known of any.
pub(crate) type Loads = Arc<Result<Vec<GpuLoad>, String>>;

/// The newest look.
#[derive(Default)]
pub(crate) struct Gpus(Mutex<Option<Look>>);

struct Look {
    loads: Loads,
    /// `None`: for good.
    at: Option<Timestamp>,
}

impl Gpus {
    /// How busy the GPUs are, or were within the last second.
    pub(crate) async fn loads(&self) -> Loads {
        let mut newest = self.0.lock().await;
        let now = SystemClock.now();
        let is_good = |look: &&Look| look.at.is_none_or(|at| now.saturating_since(at) < GOOD_FOR);
        if let Some(look) = newest.as_ref().filter(is_good) {
            return Arc::clone(&look.loads);
        }
        let (loads, at) = match timeout(ANSWERED_WITHIN, web::block(gpu_loads)).await {
            Ok(Ok(loads)) => (loads, Some(now)),
            Ok(Err(error)) => (Err(error.to_string()), Some(now)),
            // Its thread waits for the driver from now on; a second one would, too.
            Err(_) => (Err("the NVIDIA driver does not answer".to_owned()), None),
        };
        let loads = Arc::new(loads);
        *newest = Some(Look { loads: Arc::clone(&loads), at });
        loads
    }
}

/// `/api/v1/gpus`.
pub(crate) async fn gpus(shared: web::Data<Shared>) -> HttpResponse {
    let loads = shared.gpus.loads().await;
    let gpu = |gpu: &GpuLoad| {
        json!({
            "name": gpu.name,
            "uuid": gpu.uuid,
            "memory_used_bytes": gpu.memory_used,
            "memory_total_bytes": gpu.memory_total,
            "utilisation": gpu.utilisation,
        })
    };
    let gpus: Vec<_> = loads.iter().flatten().map(gpu).collect();
    HttpResponse::Ok().json(json!({ "gpus": gpus, "missing": loads.as_ref().as_ref().err() }))
}

//! `/v1/status` and `/v1/uninstall`: the instance itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use tokio::sync::Notify;

use super::reply::{Refusal, complete};
use super::types::{ErrorBody, Finding, Status};
use crate::agent::Engine;

/// What is attached, where, since when, how full.
#[utoipa::path(get, path = "/v1/status", tag = "instance", responses((status = 200, body = Status)))]
pub(super) async fn status(State(engine): State<Arc<Engine>>) -> Result<Json<Status>, Refusal> {
    complete(async move { engine.status().await }).await.map(Json)
}

/// Looks at what of the host can get in the way.
#[utoipa::path(get, path = "/v1/doctor", tag = "instance", responses((status = 200, body = [Finding])))]
pub(super) async fn doctor(State(engine): State<Arc<Engine>>) -> Result<Json<Vec<Finding>>, Refusal> {
    complete(async move { engine.doctor().await }).await.map(Json)
}

/// Removes every program, pin, device, address and file of the instance; the agent ends.
#[utoipa::path(
    post, path = "/v1/uninstall", tag = "instance",
    responses(
        (status = 204, description = "nothing is left; the agent ends"),
        (status = 500, description = "something could not be removed", body = ErrorBody),
    )
)]
pub(super) async fn uninstall(
    State(engine): State<Arc<Engine>>,
    Extension(stop): Extension<Arc<Notify>>,
) -> Result<StatusCode, Refusal> {
    let removed = complete({
        let engine = engine.clone();
        async move { engine.uninstall().await }
    });
    let removed = removed.await;
    // Also when something could not be removed: what is left is for `netbpf uninstall` without an agent. One that was refused
    // before it began ends nothing.
    if engine.is_stopping() {
        stop.notify_one();
    }
    removed.map(|()| StatusCode::NO_CONTENT)
}

//! `/v1/exposure`: what is reached from where.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};

use super::flows::Selection;
use super::reply::{Checked, Refusal, complete};
use super::types::{ErrorBody, Exposure};
use crate::agent::Engine;

/// The ways to the ports of containers: those that are published, and those that a process listens on.
#[utoipa::path(
    get, path = "/v1/exposure", tag = "containers", params(Selection),
    responses((status = 200, body = [Exposure]), (status = 404, description = "no such container", body = ErrorBody))
)]
pub(super) async fn list(
    State(engine): State<Arc<Engine>>,
    Checked(Query(selection)): Checked<Query<Selection>>,
) -> Result<Json<Vec<Exposure>>, Refusal> {
    complete(async move { engine.exposure(selection.container.as_deref()).await }).await.map(Json)
}

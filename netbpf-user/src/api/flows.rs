//! `/v1/flows`: the flow table.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::reply::{Checked, Refusal, complete};
use super::types::{ErrorBody, Flow};
use crate::agent::Engine;

/// Of which containers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Of this container; of all when absent.
    pub(super) container: Option<String>,
}

/// The flows that are alive.
#[utoipa::path(
    get, path = "/v1/flows", tag = "flows", params(Selection),
    responses((status = 200, body = [Flow]), (status = 404, description = "no such container", body = ErrorBody))
)]
pub(super) async fn list(
    State(engine): State<Arc<Engine>>,
    Checked(Query(selection)): Checked<Query<Selection>>,
) -> Result<Json<Vec<Flow>>, Refusal> {
    complete(async move { engine.flows(selection.container.as_deref()).await }).await.map(Json)
}

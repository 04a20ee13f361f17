//! `/v1/containers/{name}/publish` and `.../unpublish`: published ports, changed live.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::reply::{Body, Checked, Refusal, complete};
use super::types::{ErrorBody, PortMapping, PublishRequest};
use crate::agent::Engine;

/// Publishes ports of a container: all of the request or none.
#[utoipa::path(
    post, path = "/v1/containers/{name}/publish", tag = "ports", request_body = PublishRequest,
    params(("name" = String, Path, description = "name of the container")),
    responses(
        (status = 200, description = "the new publishes, with the host ports chosen", body = [PortMapping]),
        (status = 404, body = ErrorBody),
        (status = 409, description = "port in use", body = ErrorBody),
        (status = 422, description = "not a SPEC", body = ErrorBody),
    )
)]
pub(super) async fn publish(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<Vec<PortMapping>>, Refusal> {
    complete(async move { engine.publish(&name, &request.publish).await }).await.map(Json)
}

/// Takes publishes of a container back: all of the request or none.
#[utoipa::path(
    post, path = "/v1/containers/{name}/unpublish", tag = "ports", request_body = PublishRequest,
    params(("name" = String, Path, description = "name of the container")),
    responses(
        (status = 200, description = "what remains published", body = [PortMapping]),
        (status = 404, description = "no such container or publish", body = ErrorBody),
        (status = 422, description = "not a SPEC", body = ErrorBody),
    )
)]
pub(super) async fn unpublish(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<Vec<PortMapping>>, Refusal> {
    complete(async move { engine.unpublish(&name, &request.publish).await }).await.map(Json)
}

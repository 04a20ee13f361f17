//! `/v1/containers`: containers and their processes.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::peer::Visitor;
use super::reply::{Body, Checked, Made, Refusal, complete};
use super::types::{Container, CreateRequest, ErrorBody, ProcessRequest};
use crate::agent::Engine;

/// All containers.
#[utoipa::path(get, path = "/v1/containers", tag = "containers", responses((status = 200, body = [Container])))]
pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Result<Json<Vec<Container>>, Refusal> {
    complete(async move { Ok(engine.list().await) }).await.map(Json)
}

/// Makes a container: namespace, device, address, publishes; or nothing at all.
#[utoipa::path(
    post, path = "/v1/containers", tag = "containers", request_body = CreateRequest,
    responses(
        (status = 201, body = Container),
        (status = 409, description = "name, address or port in use", body = ErrorBody),
        (status = 422, description = "not a valid request", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(engine): State<Arc<Engine>>,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, Extension<Made>, Json<Container>), Refusal> {
    let container = complete(async move { engine.create(request).await }).await?;
    let made = Made { what: "container", name: container.name.clone() };
    Ok((StatusCode::CREATED, Extension(made), Json(container)))
}

/// One container.
#[utoipa::path(
    get, path = "/v1/containers/{name}", tag = "containers",
    params(("name" = String, Path, description = "name of the container")),
    responses((status = 200, body = Container), (status = 404, body = ErrorBody))
)]
pub(super) async fn inspect(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
) -> Result<Json<Container>, Refusal> {
    complete(async move { engine.inspect(&name).await }).await.map(Json)
}

/// How to remove a container.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// Also a running one, whose process is killed.
    #[serde(default)]
    force: bool,
}

/// Removes a container.
#[utoipa::path(
    delete, path = "/v1/containers/{name}", tag = "containers",
    params(("name" = String, Path, description = "name of the container"), Removal),
    responses(
        (status = 204, description = "removed"),
        (status = 404, body = ErrorBody),
        (status = 409, description = "it is running", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
    Checked(Query(removal)): Checked<Query<Removal>>,
) -> Result<StatusCode, Refusal> {
    complete(async move { engine.remove(&name, removal.force).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells which process runs in the container.
#[utoipa::path(
    post, path = "/v1/containers/{name}/process", tag = "containers", request_body = ProcessRequest,
    params(("name" = String, Path, description = "name of the container")),
    responses(
        (status = 200, body = Container),
        (status = 404, body = ErrorBody),
        (status = 422, description = "no such process", body = ErrorBody),
    )
)]
pub(super) async fn set_process(
    State(engine): State<Arc<Engine>>,
    Extension(visitor): Extension<Visitor>,
    Checked(Path(name)): Checked<Path<String>>,
    Body(request): Body<ProcessRequest>,
) -> Result<Json<Container>, Refusal> {
    complete(async move { engine.set_process(&name, request.pid, visitor.peer.user).await }).await.map(Json)
}

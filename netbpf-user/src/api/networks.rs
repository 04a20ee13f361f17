//! `/v1/networks`: networks, and who is in them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::reply::{Body, Checked, Made, Refusal, complete};
use super::types::{ConnectRequest, Container, DisconnectRequest, ErrorBody, Network, NetworkRequest};
use crate::agent::Engine;

/// All networks.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", responses((status = 200, body = [Network])))]
pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Result<Json<Vec<Network>>, Refusal> {
    complete(async move { Ok(engine.networks().await) }).await.map(Json)
}

/// Makes a network, or nothing at all.
#[utoipa::path(
    post, path = "/v1/networks", tag = "networks", request_body = NetworkRequest,
    responses(
        (status = 201, body = Network),
        (status = 409, description = "name or subnet in use", body = ErrorBody),
        (status = 422, description = "not a valid request", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(engine): State<Arc<Engine>>,
    Body(request): Body<NetworkRequest>,
) -> Result<(StatusCode, Extension<Made>, Json<Network>), Refusal> {
    let network = complete(async move { engine.create_network(request).await }).await?;
    let made = Made { what: "network", name: network.name.clone() };
    Ok((StatusCode::CREATED, Extension(made), Json(network)))
}

/// One network.
#[utoipa::path(
    get, path = "/v1/networks/{name}", tag = "networks",
    params(("name" = String, Path, description = "name of the network")),
    responses((status = 200, body = Network), (status = 404, body = ErrorBody))
)]
pub(super) async fn inspect(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
) -> Result<Json<Network>, Refusal> {
    complete(async move { engine.network(&name).await }).await.map(Json)
}

/// Removes a network that nobody is in.
#[utoipa::path(
    delete, path = "/v1/networks/{name}", tag = "networks",
    params(("name" = String, Path, description = "name of the network")),
    responses(
        (status = 204, description = "removed"),
        (status = 404, body = ErrorBody),
        (status = 409, description = "containers are in it", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
) -> Result<StatusCode, Refusal> {
    complete(async move { engine.remove_network(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes all networks that nobody is in; their names.
#[utoipa::path(post, path = "/v1/networks/prune", tag = "networks", responses((status = 200, body = [String])))]
pub(super) async fn prune(State(engine): State<Arc<Engine>>) -> Result<Json<Vec<String>>, Refusal> {
    complete(async move { engine.prune_networks().await }).await.map(Json)
}

/// Connects a container to the network.
#[utoipa::path(
    post, path = "/v1/networks/{name}/connect", tag = "networks", request_body = ConnectRequest,
    params(("name" = String, Path, description = "name of the network")),
    responses(
        (status = 200, body = Container),
        (status = 404, body = ErrorBody),
        (status = 409, description = "it is in the network already, or the address is in use", body = ErrorBody),
    )
)]
pub(super) async fn connect(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
    Body(request): Body<ConnectRequest>,
) -> Result<Json<Container>, Refusal> {
    complete(async move { engine.connect(&name, request).await }).await.map(Json)
}

/// Takes a container out of the network.
#[utoipa::path(
    post, path = "/v1/networks/{name}/disconnect", tag = "networks", request_body = DisconnectRequest,
    params(("name" = String, Path, description = "name of the network")),
    responses((status = 200, body = Container), (status = 404, body = ErrorBody))
)]
pub(super) async fn disconnect(
    State(engine): State<Arc<Engine>>,
    Checked(Path(name)): Checked<Path<String>>,
    Body(request): Body<DisconnectRequest>,
) -> Result<Json<Container>, Refusal> {
    complete(async move { engine.disconnect(&name, &request.container).await }).await.map(Json)
}

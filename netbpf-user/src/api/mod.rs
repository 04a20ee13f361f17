//! The one way to the engine: HTTP and JSON on unix sockets.
//!
//! Each route is a thin translation to one call of [`Engine`]; the OpenAPI
//! document at `/v1/openapi.json` is made from the same types.

mod client;
mod containers;
mod door;
mod exposure;
mod flows;
mod instance;
mod log;
mod networks;
mod peer;
mod ports;
mod quota;
mod reply;
mod server;
mod socket;
pub mod types;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use tokio::sync::Notify;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;

use crate::agent::Engine;
use reply::Refusal;

pub use client::{Client, ClientError};
pub use door::{Doors, OpenDoors};
#[doc(hidden)]
pub use reply::read;
pub use server::serve;
pub use socket::SocketError;
pub(crate) use socket::unready;

/// Enough for every port of every transport as a SPEC of its own.
const BODY_LIMIT: usize = 8 << 20;

#[derive(OpenApi)]
#[openapi(
    info(title = "netbpf", description = "Container networks in eBPF: the API of the agent, on its unix socket."),
    paths(
        containers::list,
        containers::create,
        containers::inspect,
        containers::remove,
        containers::set_process,
        networks::list,
        networks::create,
        networks::inspect,
        networks::remove,
        networks::prune,
        networks::connect,
        networks::disconnect,
        ports::publish,
        ports::unpublish,
        flows::list,
        exposure::list,
        instance::status,
        instance::doctor,
        instance::uninstall,
    )
)]
struct Document;

/// The OpenAPI document of the API.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

fn router(engine: Arc<Engine>, stop: Arc<Notify>) -> Router {
    Router::new()
        .route("/v1/status", get(instance::status))
        .route("/v1/doctor", get(instance::doctor))
        .route("/v1/uninstall", post(instance::uninstall))
        .route("/v1/containers", get(containers::list).post(containers::create))
        .route("/v1/containers/{name}", get(containers::inspect).delete(containers::remove))
        .route("/v1/containers/{name}/process", post(containers::set_process))
        .route("/v1/containers/{name}/publish", post(ports::publish))
        .route("/v1/containers/{name}/unpublish", post(ports::unpublish))
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route("/v1/networks/prune", post(networks::prune))
        .route("/v1/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/v1/networks/{name}/connect", post(networks::connect))
        .route("/v1/networks/{name}/disconnect", post(networks::disconnect))
        .route("/v1/flows", get(flows::list))
        .route("/v1/exposure", get(exposure::list))
        .route("/v1/openapi.json", get(async || Json(document())))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(RequestBodyTimeoutLayer::new(server::PATIENCE))
        .layer(middleware::from_fn(peer::admit))
        .layer(middleware::from_fn(log::requests))
        .layer(Extension(stop))
        .with_state(engine)
}

async fn unknown_route(request: Request) -> Refusal {
    let line = format!("there is no {}; GET /v1/openapi.json lists what there is", request.uri().path());
    Refusal::new(StatusCode::NOT_FOUND, line)
}

async fn unknown_method(request: Request) -> Refusal {
    let line = format!("{} is not for {}; GET /v1/openapi.json lists what is", request.method(), request.uri().path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_and_every_body() {
        let document = serde_json::to_value(document()).unwrap();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
        let expected = [
            "/v1/containers",
            "/v1/containers/{name}",
            "/v1/containers/{name}/process",
            "/v1/containers/{name}/publish",
            "/v1/containers/{name}/unpublish",
            "/v1/doctor",
            "/v1/exposure",
            "/v1/flows",
            "/v1/networks",
            "/v1/networks/prune",
            "/v1/networks/{name}",
            "/v1/networks/{name}/connect",
            "/v1/networks/{name}/disconnect",
            "/v1/status",
            "/v1/uninstall",
        ];
        assert_eq!(paths, expected);
        for schema in ["CreateRequest", "Container", "Network", "PortMapping", "Status", "Flow", "ErrorBody"] {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
    }
}

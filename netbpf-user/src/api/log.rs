//! What the log says of requests: each that changes something, once.

use std::time::Instant;

use axum::Extension;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::peer::Visitor;
use super::reply::{Made, Told};

/// Tells who asked for what, what came of it, and how long it took.
pub(super) async fn requests(
    Extension(Visitor { peer, .. }): Extension<Visitor>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().clone());
    let begin = Instant::now();
    let response = next.run(request).await;
    let ms = begin.elapsed().as_millis() as u64;
    let (uid, pid) = peer.user_and_process();
    let status = response.status().as_u16();
    let request = format!("{method} {path}");
    match (response.extensions().get::<Told>(), response.extensions().get::<Made>()) {
        (Some(Told(refusal)), _) => tracing::info!(%request, uid, pid, status, ms, refusal, "refused"),
        (None, Some(Made { what: "network", name })) => {
            tracing::info!(%request, network = name, uid, pid, status, ms, "done");
        }
        (None, Some(Made { name, .. })) => tracing::info!(%request, container = name, uid, pid, status, ms, "done"),
        (None, None) => tracing::info!(%request, uid, pid, status, ms, "done"),
    }
    response
}

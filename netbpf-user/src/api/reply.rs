//! What every handler shares: how a call is made, how input is refused, how an error looks.

use std::fmt::Display;
use std::future::Future;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::types::ErrorBody;
use crate::Error;
use crate::failpoint;

/// Longest line that is told whole, in bytes.
const LONGEST_LINE: usize = 1000;

/// A refusal: status and the one clear line.
pub(super) struct Refusal {
    status: StatusCode,
    line: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, line: impl Into<String>) -> Self {
        Self { status, line: line.into() }
    }

    /// What has panicked.
    pub(super) fn died(error: &tokio::task::JoinError) -> Self {
        tracing::error!("a request died: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed on this request; its log says where")
    }

    /// An extractor's rejection under its own status.
    fn rejected(rejection: impl IntoResponse + Display) -> Self {
        // Some of serde's messages hold a piece of the input, which may hold newlines.
        let line = rejection.to_string().replace('\n', " ");
        Self { status: rejection.into_response().status(), line }
    }
}

/// The line of a refusal, for the log.
#[derive(Clone)]
pub(super) struct Told(pub(super) String);

/// What a request without a name in its path has made, for the log.
#[derive(Clone)]
pub(super) struct Made {
    /// `container` or `network`.
    pub(super) what: &'static str,
    /// Its name.
    pub(super) name: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Error::Exhausted(_) => StatusCode::INSUFFICIENT_STORAGE,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, line: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let line = shortened(self.line);
        let told = Told(line.clone());
        (self.status, Extension(told), Json(ErrorBody { error: line })).into_response()
    }
}

/// A line that a person can read: what it repeats of a request may be as long as a request.
fn shortened(line: String) -> String {
    if line.len() <= LONGEST_LINE {
        return line;
    }
    let beginning = line.floor_char_boundary(LONGEST_LINE / 2);
    let end = line.ceil_char_boundary(line.len() - LONGEST_LINE / 2);
    format!("{} ... {}", &line[..beginning], &line[end..])
}

/// Runs a call to its end even when the client goes away: a request that was begun is never left half done.
pub(super) async fn complete<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(call).await;
    failpoint::before("answer");
    match done {
        Ok(result) => result.map_err(Refusal::from),
        Err(error) => Err(Refusal::died(&error)),
    }
}

/// A JSON body, whatever its content type says.
pub(super) struct Body<T>(pub T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(Refusal::rejected)?;
        object(&bytes).map(Self)
    }
}

/// The object that a body is.
fn object<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // serde would read an array as a struct's fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body of the request is no JSON object"));
    }
    Json::from_bytes(bytes).map(|Json(value)| value).map_err(Refusal::rejected)
}

/// Reads a body as every route does, for fuzzing; or the line that it is refused with.
#[doc(hidden)]
pub fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    object(bytes).map_err(|refusal| shortened(refusal.line))
}

/// An extractor of the path or the query whose rejection is a [`Refusal`].
pub(super) struct Checked<E>(pub E);

impl<E, S> FromRequestParts<S> for Checked<E>
where
    E: FromRequestParts<S>,
    E::Rejection: IntoResponse + Display,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        E::from_request_parts(parts, state).await.map(Self).map_err(Refusal::rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_told_by_its_beginning_and_its_end() {
        assert_eq!(shortened("short".into()), "short");
        let line = shortened(format!("bad name '{}': use 1 to 63 letters", "é".repeat(100_000)));
        assert!(line.len() < LONGEST_LINE + 10, "{}", line.len());
        assert!(line.starts_with("bad name 'é") && line.ends_with("é': use 1 to 63 letters"), "{line}");
    }
}

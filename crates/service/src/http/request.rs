//! Extractors for the parts of a request. A part that is invalid is answered with a
//! [`Failure`](container_api::Failure), as every other error is.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use container_machine::{InvalidMachineId, MachineId};
use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// The machine that the request's path names.
pub(super) struct MachinePath(pub(super) MachineId);

impl<S: Send + Sync> FromRequestParts<S> for MachinePath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|error| Refusal::invalid(error.to_string()))?;
        let id = id.parse();
        let id = id.map_err(|error: InvalidMachineId| Refusal::invalid(error.to_string()))?;
        Ok(MachinePath(id))
    }
}

/// The parameters in the request's URL.
pub(super) struct UrlQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for UrlQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|error| Refusal::invalid(error.to_string()))?;
        Ok(UrlQuery(value))
    }
}

/// The request's body, which is JSON whatever its content type says.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|error| Refusal::invalid(error.to_string()))?;
        let value = serde_json::from_slice(&body);
        Ok(JsonBody(value.map_err(|error| {
            Refusal::invalid(format!("invalid request: {error}"))
        })?))
    }
}

//! What comes with a request, or a [`Failure`](container_api::Failure) that says what is wrong
//! with it.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::request::Parts,
};
use container_machine::MachineId;
use serde::de::DeserializeOwned;

use crate::{error::ServiceError, http::Refusal};

/// The machine in the request's path.
pub struct Named(pub MachineId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(word) = path.map_err(|error| ServiceError::Invalid(error.to_string()))?;
        Ok(Named(word.parse()?))
    }
}

/// The request's body.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|error| ServiceError::Invalid(error.to_string()))?;
        let asked = serde_json::from_slice(&body);
        Ok(Asked(asked.map_err(|error| {
            ServiceError::Invalid(format!("the request cannot be understood: {error}"))
        })?))
    }
}

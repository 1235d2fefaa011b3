//! Replies to requests that failed.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use container_api::{Failure, FailureKind};

use crate::failure::RequestError;

/// The reply to a request that failed: a [`Failure`], with the status of its kind.
pub(super) struct Refusal(Failure);

impl Refusal {
    /// Returns the reply to an invalid request.
    pub(super) fn invalid(message: String) -> Refusal {
        Refusal(Failure {
            kind: FailureKind::Invalid,
            message,
        })
    }
}

impl<E: RequestError> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal(error.to_failure())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Exists | FailureKind::WouldLose => StatusCode::CONFLICT,
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

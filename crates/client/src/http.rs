//! HTTP requests over the service's Unix socket, each on a connection of its own.

use std::io;

use container_api::{Failure, Progress, StreamEvent};
use container_protocol::local;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Client, ClientError};

impl Client {
    /// Sends a request, and returns the decoded reply.
    pub(crate) async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let reply = response.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&reply).map_err(ClientError::InvalidReply)
    }

    /// Sends a request whose reply is a stream. Calls `progress` for each report, and returns the
    /// result.
    pub(crate) async fn request_streamed<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, body).await?;
        read_stream(response.into_body(), progress).await
    }

    /// Sends a request with a tar stream as its body. The reply is read while the body is sent.
    pub(crate) async fn request_streamed_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl Body<Data = Bytes, Error = io::Error> + Send + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<T, ClientError> {
        tracing::debug!("POST {path}");
        let request = build_request(Method::POST, path, "application/x-tar", body)?;
        read_stream(self.send_built(request).await?.into_body(), progress).await
    }

    /// Sends a request with a JSON body, and returns the reply once its head has arrived.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = serde_json::to_value(body).map_err(|cause| ClientError::Encode {
            path: path.to_owned(),
            cause,
        })?;
        tracing::debug!("{method} {path} {}", redacted(&body));
        let body = Full::new(Bytes::from(body.to_string()));
        self.send_built(build_request(method, path, "application/json", body)?)
            .await
    }

    /// Sends a request on a new connection. A reply other than 200 is returned as an error.
    async fn send_built<B>(&self, request: Request<B>) -> Result<Response<Incoming>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = local::connect(&self.directories.service_socket())
            .await
            .map_err(ClientError::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The task ends with the request, which also returns the connection's errors.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        tracing::debug!("reply: {}", response.status());
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Err(match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => failure.into(),
            Err(_) => ClientError::UnexpectedStatus {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            },
        })
    }
}

fn build_request<B>(
    method: Method,
    path: &str,
    content_type: &str,
    body: B,
) -> Result<Request<B>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        // HTTP/1.1 requires the header; the service ignores it.
        .header("host", "container")
        .header("content-type", content_type)
        // A saved archive that breaks off has the reason in a trailer.
        .header("te", "trailers")
        .body(body)
        .map_err(|cause| ClientError::InvalidRequest {
            path: path.to_owned(),
            cause,
        })
}

/// Reads a stream of JSON lines. Calls `progress` for each report, and returns the result, which is
/// the last line.
async fn read_stream<T: DeserializeOwned>(
    mut stream: Incoming,
    progress: &mut dyn FnMut(Progress),
) -> Result<T, ClientError> {
    let mut unread = Vec::new();
    while let Some(frame) = stream.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        unread.extend_from_slice(&data);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            tracing::debug!("{}", String::from_utf8_lossy(line.trim_ascii_end()));
            match serde_json::from_slice(&line).map_err(ClientError::InvalidReply)? {
                StreamEvent::Progress(step) => progress(step),
                StreamEvent::Done(done) => return Ok(done),
                StreamEvent::Failed(failure) => return Err(failure.into()),
            }
        }
    }
    Err(ClientError::NoResult)
}

/// Returns a request's body for the log, without the password and without the values of the
/// environment, which may be secret.
fn redacted(body: &Value) -> String {
    let mut body = body.clone();
    if body.is_null() {
        return String::new();
    }
    if let Some(Value::Object(environment)) = body.get_mut("environment") {
        environment
            .values_mut()
            .for_each(|value| *value = "…".into());
    }
    if let Some(password) = body.get_mut("password") {
        *password = "…".into();
    }
    body.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_not_logged() {
        let environment = json!({"HTTPS_PROXY": "http://me:secret@p"});
        let body = json!({"server": "a", "password": "secret", "environment": environment});
        assert_eq!(
            redacted(&body),
            r#"{"environment":{"HTTPS_PROXY":"…"},"password":"…","server":"a"}"#
        );
        assert_eq!(redacted(&Value::Null), "");
    }
}

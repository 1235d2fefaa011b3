//! One HTTP request over the service's socket.

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
    /// Asks and waits for the whole answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let whole = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&whole)?)
    }

    /// Asks, tells progress as it comes, and waits for the last line.
    pub(crate) async fn ask_streamed<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, body).await?;
        last_line(response.into_body(), progress).await
    }

    /// As [`ask_streamed`](Self::ask_streamed), with a body that is sent while the answer comes.
    pub(crate) async fn ask_streamed_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl Body<Data = Bytes, Error = io::Error> + Send + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<T, ClientError> {
        tracing::debug!("POST {path}");
        let request = request(Method::POST, path, "application/x-tar", body)?;
        last_line(self.exchange(request).await?.into_body(), progress).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = serde_json::to_value(body)?;
        tracing::debug!("{method} {path} {}", told(&body));
        let body = Full::new(Bytes::from(body.to_string()));
        self.exchange(request(method, path, "application/json", body)?)
            .await
    }

    /// Sends a request on a connection of its own, and waits for the answer to begin.
    async fn exchange<B>(&self, request: Request<B>) -> Result<Response<Incoming>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let lost = |error: std::io::Error| ClientError::Connection(error.to_string());
        let stream = local::connect(&self.world.service_socket())
            .await
            .map_err(lost)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the request; what goes wrong on it the request tells.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        tracing::debug!("answer: {}", response.status());
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let whole = response.into_body().collect().await?.to_bytes();
        Err(match serde_json::from_slice::<Failure>(&whole) {
            Ok(failure) => failure.into(),
            Err(_) => ClientError::Connection(format!(
                "the service answers {status}: {}",
                String::from_utf8_lossy(&whole)
            )),
        })
    }
}

fn request<B>(
    method: Method,
    path: &str,
    content_type: &str,
    body: B,
) -> Result<Request<B>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "container")
        .header("content-type", content_type)
        // An archive that breaks off says why behind its end.
        .header("te", "trailers")
        .body(body)
        .map_err(|error| ClientError::Connection(error.to_string()))
}

/// Tells progress as it comes, and waits for the last line.
async fn last_line<T: DeserializeOwned>(
    mut stream: Incoming,
    progress: &mut dyn FnMut(Progress),
) -> Result<T, ClientError> {
    let mut waiting = Vec::new();
    while let Some(frame) = stream.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        waiting.extend_from_slice(&data);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            tracing::debug!("{}", String::from_utf8_lossy(line.trim_ascii_end()));
            match serde_json::from_slice(&line)? {
                StreamEvent::Progress(step) => progress(step),
                StreamEvent::Done(done) => return Ok(done),
                StreamEvent::Failed(failure) => return Err(failure.into()),
            }
        }
    }
    let message = "it ended while it worked on this; `container machine ls` and `container image ls` show what came of it";
    Err(ClientError::Connection(message.to_owned()))
}

/// A request's body for the log: without a password, and of an environment, whose values may be
/// secret, the names.
fn told(body: &Value) -> String {
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
    fn what_may_be_secret_is_not_logged() {
        let environment = json!({"HTTPS_PROXY": "http://me:secret@p"});
        let body = json!({"server": "a", "password": "secret", "environment": environment});
        assert_eq!(
            told(&body),
            r#"{"environment":{"HTTPS_PROXY":"…"},"password":"…","server":"a"}"#
        );
        assert_eq!(told(&Value::Null), "");
    }
}

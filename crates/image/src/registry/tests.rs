//! Responses that a real registry cannot be made to give: redirects to other servers, busy
//! statuses.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use reqwest::{Client, Url};

use super::{client::RegistryClient, *};
use crate::{
    Environment,
    credentials::{Credential, Secret},
};

/// Server that answers each path with a status and headers, and records what it receives.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<String>>,
}

impl Server {
    fn start(answers: impl Fn(SocketAddr) -> BTreeMap<&'static str, String>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let (answers, received) = (answers(server.address), Arc::clone(&server.received));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &answers, &received);
            }
        });
        server
    }

    fn received(&self) -> String {
        self.received.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, answers: &BTreeMap<&str, String>, received: &Mutex<String>) {
    let mut reader = BufReader::new(&stream);
    let (mut head, mut length) = (String::new(), 0);
    while let Ok(3..) = reader.read_line(&mut head) {
        let last = head.lines().last().unwrap_or_default();
        if let Some(value) = last.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let is_known = head.to_ascii_lowercase().contains("authorization: ");
    let answer = match answers.get(format!("{path} known").as_str()) {
        Some(answer) if is_known => Some(answer),
        _ => answers.get(path),
    };
    let answer = answer.map_or("404 no\r\n", String::as_str);
    let written = write!(
        &stream,
        "HTTP/1.1 {answer}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let mut received = received.lock().unwrap();
    *received += &head;
    *received += &String::from_utf8_lossy(&body);
    drop(written);
}

/// Client of this server with these credentials.
async fn client_of(server: &Server, credential: Credential) -> RegistryClient {
    let (environment, registries) = (Environment::default(), Registries::default());
    let access = Access {
        scheme: Scheme::Http,
        environment: &environment,
        registries: &registries,
    };
    let host: RegistryHost = server.address.to_string().parse().unwrap();
    RegistryClient::for_user(&host, credential, access)
        .await
        .unwrap()
}

/// Sends a request to this server with these credentials.
async fn request(server: &Server, credential: Credential) -> Result<(), RegistryError> {
    let request = |http: &Client, url: Url| http.get(url);
    let client = client_of(server, credential).await;
    client.get("blob", request).await.map(drop)
}

fn password() -> Credential {
    Credential::Password {
        username: "ann".to_owned(),
        password: Secret::new("secret".to_owned()),
    }
}

/// `ann:secret`
const ENCODED: &str = "YW5uOnNlY3JldA==";

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_server() {
    let elsewhere = Server::start(|_| BTreeMap::from([("/blob", "200 OK\r\n".to_owned())]));
    let registry = Server::start(|_| {
        let location = format!("307 x\r\nLocation: http://{}/blob\r\n", elsewhere.address);
        let challenge = "401 x\r\nWWW-Authenticate: Basic realm=\"x\"\r\n".to_owned();
        BTreeMap::from([("/v2/blob", challenge), ("/v2/blob known", location)])
    });
    request(&registry, password()).await.unwrap();
    assert!(registry.received().contains(ENCODED));
    let received = elsewhere.received().to_ascii_lowercase();
    assert!(received.contains("get /blob"), "{received}");
    assert!(!received.contains("authorization"), "{received}");
}

#[tokio::test]
async fn a_token_service_does_not_forward_credentials() {
    let elsewhere = Server::start(|_| BTreeMap::from([("/token", "200 OK\r\n".to_owned())]));
    let registry = Server::start(|address| {
        let challenge =
            format!("401 x\r\nWWW-Authenticate: Bearer realm=\"http://{address}/token\"\r\n");
        let location = format!("307 x\r\nLocation: http://{}/token\r\n", elsewhere.address);
        BTreeMap::from([("/v2/blob", challenge), ("/token", location)])
    });
    let token = Credential::IdentityToken(Secret::new("hush".to_owned()));
    for (credential, shown) in [(password(), ENCODED), (token, "refresh_token=hush")] {
        let error = request(&registry, credential).await.unwrap_err();
        assert!(error.to_string().contains("307"), "{error}");
        assert!(registry.received().contains(shown));
        assert_eq!(elsewhere.received(), "");
    }
}

/// Returns the error of a request to a registry, with a password, by this scheme.
async fn refusal(host: &RegistryHost, scheme: Scheme, environment: &Environment) -> RegistryError {
    let access = Access {
        scheme,
        environment,
        registries: &Registries::default(),
    };
    let client = RegistryClient::for_user(host, password(), access)
        .await
        .unwrap();
    let answer = client.get("blob", |http, url| http.get(url)).await;
    answer.unwrap_err()
}

#[tokio::test]
async fn credentials_are_sent_unencrypted_only_by_choice() {
    let challenge = "401 x\r\nWWW-Authenticate: Basic realm=\"x\"\r\n";
    let url = "http://registry.test/v2/blob";
    // It is the proxy, so the name need not exist.
    let server = Server::start(|_| BTreeMap::from([(url, challenge.to_owned())]));
    let proxy = format!("http://{}", server.address);
    let environment = Environment::from(BTreeMap::from([("http_proxy".to_owned(), proxy)]));
    let host: RegistryHost = "registry.test".parse().unwrap();
    for (scheme, is_sent) in [(Scheme::Auto, false), (Scheme::Http, true)] {
        let error = refusal(&host, scheme, &environment).await;
        assert!(server.received().contains(url), "{error}");
        assert_eq!(server.received().contains(ENCODED), is_sent);
        let is_withheld = matches!(error, RegistryError::Unencrypted { .. });
        assert_eq!(is_withheld, !is_sent, "{error}");
    }
}

#[tokio::test]
async fn credentials_of_a_registry_on_loopback_stay_there() {
    let token = "http://token.test/token";
    let elsewhere = Server::start(|_| BTreeMap::from([(token, "401 x\r\n".to_owned())]));
    let challenge = format!("401 x\r\nWWW-Authenticate: Bearer realm=\"{token}\"\r\n");
    let registry = Server::start(|_| BTreeMap::from([("/v2/blob", challenge.clone())]));
    let environment = Environment::from(BTreeMap::from([
        (
            "http_proxy".to_owned(),
            format!("http://{}", elsewhere.address),
        ),
        ("no_proxy".to_owned(), "127.0.0.1".to_owned()),
    ]));
    let host: RegistryHost = registry.address.to_string().parse().unwrap();
    for (scheme, is_sent) in [(Scheme::Auto, false), (Scheme::Http, true)] {
        let error = refusal(&host, scheme, &environment).await;
        assert_eq!(elsewhere.received().contains(ENCODED), is_sent, "{error}");
        let is_withheld = matches!(error, RegistryError::UnencryptedTokenService { .. });
        assert_eq!(is_withheld, !is_sent, "{error}");
    }
}

#[tokio::test]
async fn requests_to_a_busy_registry_are_retried() {
    let busy = "503 busy\r\n".to_owned();
    let server = Server::start(|_| BTreeMap::from([("/v2/manifests/busy", busy.clone())]));
    let client = client_of(&server, password()).await;
    let error = client.fetch_manifest("busy").await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(server.received().matches("GET /").count(), 3);
    let error = client.fetch_manifest("none").await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    assert_eq!(server.received().matches("GET /").count(), 4);
}

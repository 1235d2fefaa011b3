//! What no real registry does when asked to: send credentials elsewhere, be busy.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;
use crate::credentials::Secret;

/// A server that answers each path with a status and headers, and remembers all that it is told.
struct Server {
    address: SocketAddr,
    told: Arc<Mutex<String>>,
}

impl Server {
    fn start(answers: impl Fn(SocketAddr) -> BTreeMap<&'static str, String>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            told: Arc::default(),
        };
        let (answers, told) = (answers(server.address), Arc::clone(&server.told));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &answers, &told);
            }
        });
        server
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, answers: &BTreeMap<&str, String>, told: &Mutex<String>) {
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
    let mut told = told.lock().unwrap();
    *told += &head;
    *told += &String::from_utf8_lossy(&body);
    drop(written);
}

/// This server for somebody with these credentials.
fn registry_of(server: &Server, credential: Credential) -> Registry {
    let (environment, registries) = (Environment::default(), Registries::default());
    let access = Access {
        scheme: Scheme::Http,
        environment: &environment,
        registries: &registries,
    };
    let host: RegistryHost = server.address.to_string().parse().unwrap();
    Registry::as_user(&host, credential, access).unwrap()
}

/// What a request at this registry comes to for somebody with these credentials.
async fn ask(server: &Server, credential: Credential) -> Result<(), FetchError> {
    let ask = |client: &Client, url: Url| client.get(url);
    let registry = registry_of(server, credential);
    registry.get("blob", ask).await.map(drop)
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
    ask(&registry, password()).await.unwrap();
    assert!(registry.told().contains(ENCODED));
    let told = elsewhere.told().to_ascii_lowercase();
    assert!(told.contains("get /blob"), "{told}");
    assert!(!told.contains("authorization"), "{told}");
}

#[tokio::test]
async fn a_token_service_does_not_hand_credentials_on() {
    let elsewhere = Server::start(|_| BTreeMap::from([("/token", "200 OK\r\n".to_owned())]));
    let registry = Server::start(|address| {
        let challenge =
            format!("401 x\r\nWWW-Authenticate: Bearer realm=\"http://{address}/token\"\r\n");
        let location = format!("307 x\r\nLocation: http://{}/token\r\n", elsewhere.address);
        BTreeMap::from([("/v2/blob", challenge), ("/token", location)])
    });
    let token = Credential::IdentityToken(Secret::new("hush".to_owned()));
    for (credential, shown) in [(password(), ENCODED), (token, "refresh_token=hush")] {
        let error = ask(&registry, credential).await.unwrap_err();
        assert!(error.to_string().contains("307"), "{error}");
        assert!(registry.told().contains(shown));
        assert_eq!(elsewhere.told(), "");
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let busy = "503 busy\r\n".to_owned();
    let server = Server::start(|_| BTreeMap::from([("/v2/manifests/busy", busy.clone())]));
    let registry = registry_of(&server, password());
    let error = registry.manifest("busy").await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(server.told().matches("GET /").count(), 3);
    let error = registry.manifest("none").await.unwrap_err();
    assert!(matches!(error, FetchError::NotFound { .. }), "{error}");
    assert_eq!(server.told().matches("GET /").count(), 4);
}

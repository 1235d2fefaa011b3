//! A registry's token service.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::{Authority, Certified};

/// Issues tokens for a real registry, which verifies their signature (CNCF distribution, "Token
/// Authentication Specification" and "OAuth2 Token Authentication").
///
/// The only user is `ann`, with the password `secret` and the identity token `refresh`. She may
/// access every repository except those below `theirs/`. Everyone may pull `busybox`. The service
/// runs until the process ends.
pub struct TokenService {
    address: SocketAddr,
    authority: Authority,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

/// A request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `GET` or `POST`.
    pub method: String,
    /// The authenticated user; absent without valid credentials.
    pub user: Option<String>,
    /// Requested scopes, in their order.
    pub scopes: Vec<String>,
}

impl TokenService {
    /// Starts a service on a free port.
    pub fn start() -> TokenService {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = Authority::create();
        let service = TokenService {
            address: listener.local_addr().unwrap(),
            authority,
            requests: Arc::default(),
        };
        let signer = service.authority.certify("signer", "DNS:signer");
        let requests = Arc::clone(&service.requests);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that closes the connection needs no answer.
                let _ = answer(stream, &signer, &requests);
            }
        });
        service
    }

    /// Returns the service's URL, for the registry's configuration.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Returns the path of the certificate that verifies the tokens.
    pub fn certificate(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// Returns the requests since the last call.
    pub fn take_requests(&self) -> Vec<TokenRequest> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn answer(
    stream: TcpStream,
    signer: &Certified,
    requests: &Mutex<Vec<TokenRequest>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length");
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
    let query = match method {
        "POST" => String::from_utf8_lossy(&body).into_owned(),
        _ => path
            .split_once('?')
            .map_or("", |(_, query)| query)
            .to_owned(),
    };
    let parameters: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let all = |wanted: &str| {
        let found = parameters.iter().filter(|(name, _)| name == wanted);
        found
            .flat_map(|(_, value)| value.split(' '))
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let password = format!("Basic {}", STANDARD.encode("ann:secret"));
    let shown = headers.get("authorization");
    let is_ann = shown == Some(&password) || all("refresh_token") == ["refresh"];
    let is_wrong = !is_ann && (shown.is_some() || method == "POST");
    let request = TokenRequest {
        method: method.to_owned(),
        user: is_ann.then(|| "ann".to_owned()),
        scopes: all("scope"),
    };
    requests.lock().unwrap().push(request.clone());
    let (status, body) = if is_wrong {
        ("401 Unauthorized", json!({"errors": []}))
    } else {
        ("200 OK", json!({"token": token(&request, signer)}))
    };
    let body = body.to_string();
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Returns a JSON Web Signature (RFC 7515) that contains its certificate.
fn token(request: &TokenRequest, signer: &Certified) -> String {
    let pem = fs::read_to_string(&signer.certificate).unwrap();
    let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs();
    let access: Vec<Value> = request
        .scopes
        .iter()
        .filter_map(|scope| granted(scope, request.user.is_some()))
        .collect();
    let claims = json!({
        "iss": "issuer", "sub": request.user, "aud": "registry", "jti": "1",
        "nbf": now - 10, "iat": now, "exp": now + 300, "access": access,
    });
    let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = parts.join(".");
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(&signer.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = openssl.stdin.take().unwrap();
    stdin.write_all(signed.as_bytes()).unwrap();
    drop(stdin);
    let signature = openssl.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Returns the actions of a scope that are granted.
fn granted(scope: &str, is_known: bool) -> Option<Value> {
    let mut words = scope.split(':');
    let (kind, name, actions) = (words.next()?, words.next()?, words.next()?);
    let may_access = is_known && !name.starts_with("theirs/");
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|action| may_access || (name == "busybox" && *action == "pull"))
        .collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

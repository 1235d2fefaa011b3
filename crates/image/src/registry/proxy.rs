//! Proxies from the caller's environment: `HTTP_PROXY` for registries over HTTP, `HTTPS_PROXY` for
//! those over HTTPS, `ALL_PROXY` for both, and `NO_PROXY` for exceptions, in upper or lower case.
//! Loopback addresses are never proxied.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy, Url};

use super::RegistryError;
use crate::Environment;

/// `NO_PROXY` value for this host.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxy configuration of one environment.
pub(super) struct Proxies<'a> {
    http: Option<ProxyVariable<'a>>,
    https: Option<ProxyVariable<'a>>,
    /// List in the form of `NO_PROXY`.
    exceptions: String,
}

#[derive(Clone, Copy)]
struct ProxyVariable<'a> {
    name: &'static str,
    value: &'a str,
}

impl<'a> Proxies<'a> {
    pub(super) fn from_environment(environment: &'a Environment) -> Proxies<'a> {
        let first = |names: &[&'static str]| {
            let mut values = names.iter().filter_map(|name| {
                let value = environment.get(name)?;
                Some(ProxyVariable { name, value })
            });
            values.next()
        };
        let exceptions = first(&["NO_PROXY", "no_proxy"]);
        Proxies {
            http: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            exceptions: match exceptions {
                Some(list) => format!("{},{LOOPBACK}", list.value),
                None => LOOPBACK.to_owned(),
            },
        }
    }

    /// Converts the configuration for the HTTP client.
    pub(super) fn to_reqwest(&self) -> Result<Vec<Proxy>, RegistryError> {
        let exceptions = || NoProxy::from_string(&self.exceptions);
        let mut proxies = Vec::new();
        for (variable, is_http) in [(self.http, true), (self.https, false)] {
            if let Some(ProxyVariable { name, value }) = variable {
                let proxy = if is_http {
                    Proxy::http(value)
                } else {
                    Proxy::https(value)
                };
                let proxy = proxy.map_err(|_| RegistryError::InvalidProxy { variable: name })?;
                proxies.push(proxy.no_proxy(exceptions()));
            }
        }
        Ok(proxies)
    }

    /// Describes the proxy of a URL for messages, without its password.
    pub(super) fn describe(&self, url: &Url) -> Option<String> {
        let variable = match url.scheme() {
            "http" => self.http?,
            _ => self.https?,
        };
        let matcher = Matcher::builder()
            .all(variable.value)
            .no(self.exceptions.as_str())
            .build();
        let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
        let authority = proxy.uri().authority()?;
        let address = authority.as_str().rsplit('@').next()?;
        Some(format!("{address} ({})", variable.name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter();
        let variables: BTreeMap<String, String> = variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        variables.into()
    }

    fn describe(variables: &[(&str, &str)], url: &str) -> Option<String> {
        Proxies::from_environment(&environment(variables)).describe(&Url::parse(url).unwrap())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = [
            ("HTTP_PROXY", "http://plain:1"),
            ("https_proxy", "http://me:secret@safe:2"),
            ("ALL_PROXY", "http://all:3"),
        ];
        assert_eq!(
            describe(&both, "http://a.example/v2/").unwrap(),
            "plain:1 (HTTP_PROXY)"
        );
        assert_eq!(
            describe(&both, "https://a.example/v2/").unwrap(),
            "safe:2 (https_proxy)"
        );
        let all = [("all_proxy", "http://all:3")];
        assert_eq!(
            describe(&all, "https://a.example/v2/").unwrap(),
            "all:3 (all_proxy)"
        );
        assert_eq!(describe(&[], "https://a.example/v2/"), None);
        assert_eq!(describe(&[("HTTP_PROXY", "")], "http://a.example/"), None);
    }

    #[test]
    fn exceptions_are_not_proxied() {
        let proxy = ("ALL_PROXY", "http://all:3");
        for url in [
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "http://a.localhost/",
            "http://[::1]:5000/",
        ] {
            assert_eq!(describe(&[proxy], url), None, "{url}");
        }
        let some = [proxy, ("no_proxy", "example.com, 10.0.0.0/8,.internal")];
        for url in [
            "https://example.com/",
            "https://a.example.com/",
            "http://10.1.2.3/",
            "http://a.internal/",
        ] {
            assert_eq!(describe(&some, url), None, "{url}");
        }
        assert!(describe(&some, "https://example.org/").is_some());
        assert_eq!(
            describe(&[proxy, ("NO_PROXY", "*")], "https://example.org/"),
            None
        );
    }

    #[test]
    fn an_invalid_proxy_is_reported_without_its_value() {
        let environment = environment(&[("HTTPS_PROXY", "http://me:secret@[")]);
        let error = Proxies::from_environment(&environment)
            .to_reqwest()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("secret"),
            "{error}"
        );
    }
}

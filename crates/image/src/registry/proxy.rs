//! Proxies, as the environment of whoever asks names them: `HTTP_PROXY` for registries without
//! encryption, `HTTPS_PROXY` for the others, `ALL_PROXY` where one of these is missing, and
//! `NO_PROXY` for those that need none. Names in lower case are as good. Never for loopback.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy, Url};

use super::FetchError;
use crate::Environment;

/// Addresses of this host.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies of one environment.
pub(super) struct Proxies<'a> {
    http: Option<Variable<'a>>,
    https: Option<Variable<'a>>,
    none_for: String,
}

#[derive(Clone, Copy)]
struct Variable<'a> {
    name: &'static str,
    value: &'a str,
}

impl<'a> Proxies<'a> {
    pub(super) fn of(environment: &'a Environment) -> Proxies<'a> {
        let first = |names: &[&'static str]| {
            let mut values = names.iter().filter_map(|name| {
                let value = environment.get(name)?;
                Some(Variable { name, value })
            });
            values.next()
        };
        let none_for = first(&["NO_PROXY", "no_proxy"]);
        Proxies {
            http: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            none_for: match none_for {
                Some(list) => format!("{},{LOOPBACK}", list.value),
                None => LOOPBACK.to_owned(),
            },
        }
    }

    /// In the form that the client takes.
    pub(super) fn configured(&self) -> Result<Vec<Proxy>, FetchError> {
        let none_for = || NoProxy::from_string(&self.none_for);
        let mut proxies = Vec::new();
        for (variable, is_http) in [(self.http, true), (self.https, false)] {
            if let Some(Variable { name, value }) = variable {
                let proxy = match is_http {
                    true => Proxy::http(value),
                    false => Proxy::https(value),
                };
                let proxy = proxy.map_err(|_| FetchError::Proxy { variable: name })?;
                proxies.push(proxy.no_proxy(none_for()));
            }
        }
        Ok(proxies)
    }

    /// The one that stands before this address, for people: without a password.
    pub(super) fn before(&self, url: &Url) -> Option<String> {
        let variable = match url.scheme() {
            "http" => self.http?,
            _ => self.https?,
        };
        let matcher = Matcher::builder()
            .all(variable.value)
            .no(self.none_for.as_str())
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

    fn before(variables: &[(&str, &str)], url: &str) -> Option<String> {
        Proxies::of(&environment(variables)).before(&Url::parse(url).unwrap())
    }

    #[test]
    fn each_kind_of_registry_has_its_proxy() {
        let both = [
            ("HTTP_PROXY", "http://plain:1"),
            ("https_proxy", "http://me:secret@safe:2"),
            ("ALL_PROXY", "http://all:3"),
        ];
        assert_eq!(
            before(&both, "http://a.example/v2/").unwrap(),
            "plain:1 (HTTP_PROXY)"
        );
        assert_eq!(
            before(&both, "https://a.example/v2/").unwrap(),
            "safe:2 (https_proxy)"
        );
        let all = [("all_proxy", "http://all:3")];
        assert_eq!(
            before(&all, "https://a.example/v2/").unwrap(),
            "all:3 (all_proxy)"
        );
        assert_eq!(before(&[], "https://a.example/v2/"), None);
        assert_eq!(before(&[("HTTP_PROXY", "")], "http://a.example/"), None);
    }

    #[test]
    fn some_need_none() {
        let proxy = ("ALL_PROXY", "http://all:3");
        for url in [
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "http://a.localhost/",
            "http://[::1]:5000/",
        ] {
            assert_eq!(before(&[proxy], url), None, "{url}");
        }
        let some = [proxy, ("no_proxy", "example.com, 10.0.0.0/8,.internal")];
        for url in [
            "https://example.com/",
            "https://a.example.com/",
            "http://10.1.2.3/",
            "http://a.internal/",
        ] {
            assert_eq!(before(&some, url), None, "{url}");
        }
        assert!(before(&some, "https://example.org/").is_some());
        assert_eq!(
            before(&[proxy, ("NO_PROXY", "*")], "https://example.org/"),
            None
        );
    }

    #[test]
    fn what_is_no_proxy_is_told_by_its_variable_only() {
        let environment = environment(&[("HTTPS_PROXY", "http://me:secret@[")]);
        let error = Proxies::of(&environment)
            .configured()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("secret"),
            "{error}"
        );
    }
}

//! The middleware that every request passes: credentials, impersonation, permission.
//!
//! It puts an [`Identity`] and the parsed [`Attributes`] into the request's extensions for whoever comes after.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};

use super::Identity;
use super::authorize::{authorize, is_public};
use super::tokens::Tokens;
use crate::http::attributes::Attributes;
use crate::http::status::Status;

/// Authenticates and authorises, or answers 401 or 403.
pub async fn guard(
    State(tokens): State<Arc<Tokens>>,
    mut request: Request,
    next: Next,
) -> Response {
    let known = request.extensions().get::<Arc<Attributes>>().cloned();
    let attributes = known.unwrap_or_else(|| {
        let uri = request.uri();
        Arc::new(Attributes::parse(request.method(), uri.path(), uri.query()))
    });
    match admit(&tokens, request.headers(), &attributes) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            request.extensions_mut().insert(attributes);
            next.run(request).await
        }
        Err(status) => status.into_response(),
    }
}

fn admit(
    tokens: &Tokens,
    headers: &HeaderMap,
    attributes: &Attributes,
) -> Result<Identity, Status> {
    let identity = match bearer(headers)? {
        Some(token) => tokens.identify(token).ok_or_else(Status::unauthorized)?,
        None if is_public(&attributes.path) => Identity::anonymous(),
        None => return Err(Status::unauthorized()),
    };
    if let Some(name) = headers
        .keys()
        .find(|name| name.as_str().starts_with("impersonate-"))
    {
        return Err(Status::forbidden(format!(
            "forbidden: User {:?} cannot impersonate: this server does not support the header {name}",
            identity.user
        )));
    }
    if is_public(&attributes.path) && attributes.verb == "get" {
        return Ok(identity);
    }
    authorize(&identity, attributes)?;
    Ok(identity)
}

/// The bearer token; credentials of another scheme are wrong credentials.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(Status::unauthorized)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Status::unauthorized());
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Method};

    fn try_it(path: &str, headers: &[(&str, &str)]) -> Result<String, u16> {
        let tokens = Tokens::in_memory("good");
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        admit(
            &tokens,
            &headers,
            &Attributes::parse(&Method::GET, path, None),
        )
        .map(|identity| identity.user.to_string())
        .map_err(|status| status.code.as_u16())
    }

    #[test]
    fn credentials_decide_and_wrong_ones_are_refused_everywhere() {
        let good = ("authorization", "Bearer good");
        let bad = ("authorization", "Bearer bad");
        for (path, headers, expected) in [
            ("/version", &[][..], Ok("system:anonymous")),
            ("/readyz", &[], Ok("system:anonymous")),
            ("/api", &[], Err(401)),
            ("/metrics", &[], Err(401)),
            ("/version", &[bad], Err(401)),
            ("/version", &[("authorization", "Basic Z29vZA==")], Err(401)),
            ("/api", &[good], Ok("admin")),
            ("/api", &[("authorization", "bearer good")], Ok("admin")),
            ("/api", &[good, ("impersonate-user", "eve")], Err(403)),
            ("/api", &[good, ("impersonate-extra-scopes", "x")], Err(403)),
            ("/version", &[("impersonate-group", "g")], Err(403)),
        ] {
            assert_eq!(
                try_it(path, headers),
                expected.map(str::to_owned),
                "{path} {headers:?}"
            );
        }
    }
}

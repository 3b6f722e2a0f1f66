//! Reviews: questions about who somebody is and what they may do, answered by the same rules that guard requests.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value, json};

use super::attributes::ResourceRef;
use super::negotiate::{BodyForm, Output, Want, body_form};
use super::protobuf;
use super::status::{Status, page_not_found};
use crate::auth::Identity;
use crate::auth::authorize::{is_allowed, rules_of};
use crate::auth::tokens::Tokens;

/// The largest body of a review, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Reads a body up to a limit.
pub async fn read_body(body: Body, limit: usize) -> Result<bytes::Bytes, Status> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(limit)),
        Err(error) => Err(Status::bad_request(format!(
            "the body could not be read: {error}"
        ))),
    }
}

/// Which review a resource is.
#[derive(Clone, Copy)]
enum Review {
    SelfAccess,
    Access,
    LocalAccess,
    SelfRules,
    SelfUser,
    Token,
}

fn review_of(resource: &ResourceRef) -> Option<(Review, &'static str)> {
    if resource.version != "v1" || !resource.subresource.is_empty() {
        return None;
    }
    let found = match (resource.group.as_str(), resource.resource.as_str()) {
        ("authorization.k8s.io", "selfsubjectaccessreviews") => {
            (Review::SelfAccess, "SelfSubjectAccessReview")
        }
        ("authorization.k8s.io", "subjectaccessreviews") => (Review::Access, "SubjectAccessReview"),
        ("authorization.k8s.io", "localsubjectaccessreviews") => {
            (Review::LocalAccess, "LocalSubjectAccessReview")
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            (Review::SelfRules, "SelfSubjectRulesReview")
        }
        ("authentication.k8s.io", "selfsubjectreviews") => (Review::SelfUser, "SelfSubjectReview"),
        ("authentication.k8s.io", "tokenreviews") => (Review::Token, "TokenReview"),
        _ => return None,
    };
    let is_local = matches!(found.0, Review::LocalAccess);
    (is_local != resource.namespace.is_empty()).then_some(found)
}

/// Answers a request to the groups of the reviews.
pub async fn handle(tokens: Arc<Tokens>, resource: ResourceRef, request: Request) -> Response {
    let Some((review, kind)) = review_of(&resource) else {
        return page_not_found();
    };
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || !resource.name.is_empty() {
        let verb = parts.method.as_str().to_lowercase();
        return Status::method_not_allowed(&resource.group, &resource.resource, &verb)
            .into_response();
    }
    let answered = match read_body(body, MAX_BODY).await {
        Ok(body) => answer(&tokens, &resource, (review, kind), &parts, &body),
        Err(status) => Err(status),
    };
    answered.unwrap_or_else(Status::into_response)
}

fn answer(
    tokens: &Tokens,
    resource: &ResourceRef,
    (review, kind): (Review, &str),
    parts: &Parts,
    body: &[u8],
) -> Result<Response, Status> {
    let output = Output::read(&parts.headers, parts.uri.query(), Want::Object)?;
    let form = body_form(&parts.headers);
    let mut object = match form {
        BodyForm::Json if body.is_empty() => Value::Object(Map::new()),
        BodyForm::Json => serde_json::from_slice(body).map_err(|error| {
            Status::bad_request(format!(
                "{kind} in version \"v1\" cannot be handled as a {kind}: {error}"
            ))
        })?,
        BodyForm::Protobuf => protobuf::decode_body(body)?,
        _ => {
            return Err(Status::unsupported_media_type(&[
                "application/json",
                "application/vnd.kubernetes.protobuf",
            ]));
        }
    };
    if !object.is_object() || object.get("kind").is_some_and(|found| found != kind) {
        return Err(Status::bad_request(format!("the body is no {kind}")));
    }
    let who = parts
        .extensions
        .get::<Identity>()
        .cloned()
        .unwrap_or_else(Identity::anonymous);
    let spec = object.get("spec").cloned().unwrap_or(Value::Null);
    object["status"] = match review {
        Review::SelfAccess => access_status(&who, &spec, None),
        Review::Access => access_status(&subject(&spec)?, &spec, None),
        Review::LocalAccess => access_status(&subject(&spec)?, &spec, Some(&resource.namespace)),
        Review::SelfRules => rules_status(&who),
        Review::SelfUser => json!({"userInfo": user_info(&who)}),
        Review::Token => token_status(tokens, &spec),
    };
    object["apiVersion"] = format!("{}/v1", resource.group).into();
    object["kind"] = kind.into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({"creationTimestamp": null});
    }
    Ok(output.respond(StatusCode::CREATED, object.to_string().into()))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("").to_owned()
}

fn subject(spec: &Value) -> Result<Identity, Status> {
    let user = text(spec, "user");
    let groups: Vec<String> = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if user.is_empty() && groups.is_empty() {
        return Err(Status::bad_request(
            "at least one of spec.user or spec.groups must be specified",
        ));
    }
    // The groups are taken as they are said, or a question about strangers would be answered for acquaintances.
    Ok(Identity {
        user: user.into(),
        groups: groups.into(),
    })
}

fn access_status(who: &Identity, spec: &Value, namespace: Option<&str>) -> Value {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let allowed = if resource.is_object() {
        let asked = ResourceRef {
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: namespace.map_or_else(|| text(resource, "namespace"), str::to_owned),
            name: text(resource, "name"),
        };
        is_allowed(who, &text(resource, "verb"), "", Some(&asked))
    } else if path.is_object() {
        is_allowed(who, &text(path, "verb"), &text(path, "path"), None)
    } else {
        return json!({"allowed": false, "evaluationError": "neither resourceAttributes nor nonResourceAttributes are given"});
    };
    if allowed {
        json!({"allowed": true})
    } else {
        json!({"allowed": false, "reason": "no role of the user allows it"})
    }
}

fn rules_status(who: &Identity) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules_of(who) {
        if rule.paths.is_empty() {
            resources.push(
                json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources}),
            );
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn user_info(who: &Identity) -> Value {
    json!({"username": &*who.user, "groups": &*who.groups})
}

fn token_status(tokens: &Tokens, spec: &Value) -> Value {
    match tokens.identify(&text(spec, "token")) {
        Some(who) => json!({"authenticated": true, "user": user_info(&who)}),
        None => json!({"authenticated": false, "error": "the token is not known"}),
    }
}

/// The groups whose resources are reviews.
pub fn is_review_group(group: &str) -> bool {
    matches!(group, "authorization.k8s.io" | "authentication.k8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attributes::Attributes;

    async fn ask(groups: &[&str], plural: &str, body: Value) -> (u16, Value) {
        let group = if plural.ends_with("accessreviews") || plural.ends_with("rulesreviews") {
            "authorization.k8s.io"
        } else {
            "authentication.k8s.io"
        };
        let path = format!("/apis/{group}/v1/{plural}");
        let mut request = Request::post(&path)
            .body(Body::from(body.to_string()))
            .unwrap();
        let identity = Identity::new("ada", groups.iter().map(|group| (*group).to_owned()));
        request.extensions_mut().insert(identity);
        let resource = Attributes::parse(&Method::POST, &path, None)
            .resource
            .unwrap();
        let response = handle(Arc::new(Tokens::in_memory("good")), resource, request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn access_reviews_say_what_the_guard_would_say() {
        let attributes =
            json!({"verb": "delete", "group": "gctl.dev", "resource": "jobs", "namespace": "a"});
        let spec = json!({"spec": {"resourceAttributes": attributes}});
        for (group, allowed) in [("system:masters", true), ("system:viewers", false)] {
            let (code, answer) = ask(&[group], "selfsubjectaccessreviews", spec.clone()).await;
            assert_eq!(
                (code, &answer["status"]["allowed"]),
                (201, &json!(allowed)),
                "{group}"
            );
            assert_eq!(answer["kind"], "SelfSubjectAccessReview");
        }
        let about = json!({"spec": {"user": "eve", "groups": ["system:viewers"], "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
        let (_, answer) = ask(&["system:masters"], "subjectaccessreviews", about).await;
        assert_eq!(answer["status"]["allowed"], true);
    }

    #[tokio::test]
    async fn users_are_told_who_they_are_and_tokens_whose_they_are() {
        let (_, answer) = ask(
            &["team"],
            "selfsubjectreviews",
            json!({"kind": "SelfSubjectReview"}),
        )
        .await;
        assert_eq!(
            answer["status"]["userInfo"],
            json!({"username": "ada", "groups": ["team", "system:authenticated"]})
        );
        let (_, answer) = ask(&[], "tokenreviews", json!({"spec": {"token": "good"}})).await;
        assert_eq!(answer["status"]["user"]["username"], "admin");
        let (_, answer) = ask(&[], "tokenreviews", json!({"spec": {"token": "bad"}})).await;
        assert_eq!(answer["status"]["authenticated"], false);
        let (_, answer) = ask(&["system:masters"], "selfsubjectrulesreviews", json!({})).await;
        assert_eq!(answer["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    }

    #[tokio::test]
    async fn a_body_of_another_kind_is_refused() {
        assert_eq!(
            ask(&[], "selfsubjectreviews", json!({"kind": "Job"}))
                .await
                .0,
            400
        );
        assert_eq!(ask(&[], "selfsubjectreviews", json!([])).await.0, 400);
    }
}

//! What a request asks for, read from its method, path and query: verb, group, resource, namespace, name.
//!
//! One parser serves authorisation, metrics and the access log, so that they cannot disagree about what a path
//! means. It knows the shape of Kubernetes paths and no kind.

use std::borrow::Cow;

use http::Method;

/// A request in Kubernetes' own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that are no
    /// resource, the lower-case method.
    pub verb: &'static str,
    /// The path as it came.
    pub path: String,
    /// The resource, when the path names one.
    pub resource: Option<ResourceRef>,
}

/// The resource part of a path; empty strings where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRef {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Object name, from the path or from `fieldSelector=metadata.name=x`.
    pub name: String,
}

impl ResourceRef {
    /// `jobs` or `jobs/status`.
    pub fn resource_path(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
        }
    }
}

/// Decodes `%xx`; invalid escapes and invalid UTF-8 are kept as they are, replaced respectively.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| {
            let hex = std::str::from_utf8(hex).ok()?;
            u8::from_str_radix(hex, 16).ok()
        });
        match escape {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The first value of a query parameter, decoded (`+` is a space).
pub fn query_value(query: Option<&str>, key: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(name) == key).then(|| percent_decode(&value.replace('+', " ")).into_owned())
    })
}

/// Whether a boolean parameter is set: present and neither `0` nor `false`.
pub fn query_flag(query: Option<&str>, key: &str) -> bool {
    query_value(query, key)
        .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

impl Attributes {
    /// Reads a request line.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let resource = parse_resource(path, query);
        let verb = match &resource {
            Some(resource) => resource_verb(method, resource, path, query),
            None => plain_verb(method),
        };
        Self {
            verb,
            path: path.to_owned(),
            resource,
        }
    }

    /// Whether the request lasts by its nature: a watch, or a log that is followed.
    pub fn is_long_running(&self, query: Option<&str>) -> bool {
        self.verb == "watch"
            || self.resource.as_ref().is_some_and(|resource| {
                resource.subresource == "log" && query_flag(query, "follow")
            })
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "other",
    }
}

fn resource_verb(
    method: &Method,
    resource: &ResourceRef,
    path: &str,
    query: Option<&str>,
) -> &'static str {
    let collection = resource.name.is_empty() || !path_names_object(path);
    match method.as_str() {
        "GET" | "HEAD" if query_flag(query, "watch") && collection => "watch",
        "GET" | "HEAD" if collection => "list",
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if collection => "deletecollection",
        "DELETE" => "delete",
        _ => plain_verb(method),
    }
}

/// The path after `/api/v1` or `/apis/<group>/<version>`, with those three.
fn split_group(path: &str) -> Option<(Cow<'_, str>, Cow<'_, str>, Vec<&str>)> {
    let mut parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if parts.last() == Some(&"") {
        parts.pop();
    }
    match parts.as_slice() {
        ["api", version, rest @ ..] => {
            Some((Cow::Borrowed(""), percent_decode(version), rest.to_vec()))
        }
        ["apis", group, version, rest @ ..] => Some((
            percent_decode(group),
            percent_decode(version),
            rest.to_vec(),
        )),
        _ => None,
    }
}

fn path_names_object(path: &str) -> bool {
    let Some((_, _, rest)) = split_group(path) else {
        return false;
    };
    match rest.as_slice() {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => true,
        ["namespaces", _, _, more @ ..] | [_, more @ ..] => !more.is_empty(),
        [] => false,
    }
}

fn parse_resource(path: &str, query: Option<&str>) -> Option<ResourceRef> {
    let (group, version, rest) = split_group(path)?;
    let text = |part: &&str| percent_decode(part).into_owned();
    let (namespace, resource, name, subresource) = match rest.as_slice() {
        [] => return None,
        ["namespaces", name, sub @ ("status" | "finalize")] => {
            (text(name), "namespaces".to_owned(), text(name), text(sub))
        }
        ["namespaces", name] => (
            text(name),
            "namespaces".to_owned(),
            text(name),
            String::new(),
        ),
        ["namespaces", namespace, resource] => (
            text(namespace),
            text(resource),
            String::new(),
            String::new(),
        ),
        ["namespaces", namespace, resource, name, sub @ ..] => (
            text(namespace),
            text(resource),
            text(name),
            percent_decode(&sub.join("/")).into_owned(),
        ),
        [resource] => (String::new(), text(resource), String::new(), String::new()),
        [resource, name, sub @ ..] => (
            String::new(),
            text(resource),
            text(name),
            percent_decode(&sub.join("/")).into_owned(),
        ),
    };
    let name = if name.is_empty() {
        selected_name(query)
    } else {
        name
    };
    Some(ResourceRef {
        group: group.into_owned(),
        version: version.into_owned(),
        resource,
        subresource,
        namespace,
        name,
    })
}

/// The name in `fieldSelector=metadata.name=x`: such a list is authorised as a request for that name.
fn selected_name(query: Option<&str>) -> String {
    let Some(selector) = query_value(query, "fieldSelector") else {
        return String::new();
    };
    selector
        .split(',')
        .find_map(|term| {
            let name = term.strip_prefix("metadata.name=")?;
            Some(name.strip_prefix('=').unwrap_or(name).to_owned())
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, target: &str) -> (String, String) {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let method: Method = method.parse().expect("a method");
        let attributes = Attributes::parse(&method, path, query);
        let resource = attributes.resource.map_or_else(String::new, |r| {
            format!(
                "{}|{}|{}|{}|{}|{}",
                r.group, r.version, r.namespace, r.resource, r.name, r.subresource
            )
        });
        (attributes.verb.to_owned(), resource)
    }

    #[test]
    fn paths_become_verbs_and_resources() {
        for (method, target, verb, resource) in [
            ("GET", "/version", "get", ""),
            ("GET", "/apis/gctl.dev/v1", "get", ""),
            ("GET", "/api/v1/namespaces", "list", "|v1||namespaces||"),
            ("GET", "/api/v1/namespaces/a", "get", "|v1|a|namespaces|a|"),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update",
                "|v1|a|namespaces|a|finalize",
            ),
            (
                "GET",
                "/apis/gctl.dev/v1/jobs?watch=true",
                "watch",
                "gctl.dev|v1||jobs||",
            ),
            (
                "GET",
                "/apis/gctl.dev/v1/jobs?watch=0",
                "list",
                "gctl.dev|v1||jobs||",
            ),
            (
                "GET",
                "/apis/gctl.dev/v1/namespaces/n/jobs/x?watch=1",
                "get",
                "gctl.dev|v1|n|jobs|x|",
            ),
            (
                "DELETE",
                "/apis/gctl.dev/v1/namespaces/n/jobs",
                "deletecollection",
                "gctl.dev|v1|n|jobs||",
            ),
            (
                "PATCH",
                "/apis/gctl.dev/v1/namespaces/n/jobs/x/status",
                "patch",
                "gctl.dev|v1|n|jobs|x|status",
            ),
            (
                "GET",
                "/apis/gctl.dev/v1/nodes/a%2Fb",
                "get",
                "gctl.dev|v1||nodes|a/b|",
            ),
            (
                "GET",
                "/apis/gctl.dev/v1/jobs?fieldSelector=metadata.name%3Dx&watch=true",
                "watch",
                "gctl.dev|v1||jobs|x|",
            ),
        ] {
            assert_eq!(
                parse(method, target),
                (verb.to_owned(), resource.to_owned()),
                "{method} {target}"
            );
        }
    }

    #[test]
    fn escapes_that_are_wrong_are_kept() {
        assert_eq!(percent_decode("a%2"), "a%2");
        assert_eq!(percent_decode("a%zz"), "a%zz");
        assert_eq!(percent_decode("%41"), "A");
        assert_eq!(
            query_value(Some("a=1&b=x+y%2Bz"), "b").as_deref(),
            Some("x y+z")
        );
    }
}

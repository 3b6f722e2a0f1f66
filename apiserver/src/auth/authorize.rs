//! May this user do this? A fixed table of roles by group.
//!
//! | group | may |
//! |---|---|
//! | `system:masters` | everything |
//! | `system:viewers` | get, list and watch all but Secrets, logs included, and read the server's own documents |
//! | `system:authenticated` | discovery, OpenAPI, version, health, and reviews about itself |
//! | nobody in particular | version and health |
//!
//! There are no roles as objects; what is not in the table is denied.

use super::{AUTHENTICATED, Identity, MASTERS};
use crate::http::attributes::{Attributes, ResourceRef};
use crate::http::status::{Details, Status, qualified};

/// The group that may read.
pub const VIEWERS: &str = "system:viewers";

const READ_VERBS: &[&str] = &["get", "list", "watch"];
const SELF_REVIEWS: &[&str] = &[
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "selfsubjectreviews",
];

/// One thing that a role allows, in the words of a SelfSubjectRulesReview.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Verbs, `*` for all.
    pub verbs: &'static [&'static str],
    /// API groups, `*` for all; empty for rules about paths.
    pub groups: &'static [&'static str],
    /// Resources, `*` for all, with `resource/subresource` for subresources.
    pub resources: &'static [&'static str],
    /// Paths, a trailing `*` for all below; empty for rules about resources.
    pub paths: &'static [&'static str],
}

const EVERYTHING: &[Rule] = &[
    Rule {
        verbs: &["*"],
        groups: &["*"],
        resources: &["*"],
        paths: &[],
    },
    Rule {
        verbs: &["*"],
        groups: &[],
        resources: &[],
        paths: &["*"],
    },
];

/// Paths that need no credentials.
pub const PUBLIC_PATHS: &[&str] = &[
    "/version",
    "/version/",
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
];

const OWN: &[Rule] = &[
    Rule {
        verbs: &["create"],
        groups: &["authorization.k8s.io", "authentication.k8s.io"],
        resources: SELF_REVIEWS,
        paths: &[],
    },
    Rule {
        verbs: &["get"],
        groups: &[],
        resources: &[],
        paths: &[
            "/",
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/openapi",
            "/openapi/*",
        ],
    },
    Rule {
        verbs: &["get"],
        groups: &[],
        resources: &[],
        paths: PUBLIC_PATHS,
    },
];

const READING: &[Rule] = &[
    Rule {
        verbs: READ_VERBS,
        groups: &["*"],
        resources: &["*"],
        paths: &[],
    },
    Rule {
        verbs: &["get"],
        groups: &[],
        resources: &[],
        paths: &["/metrics"],
    },
];

/// The rules of a user, for the decision and for reviews alike.
pub fn rules_of(identity: &Identity) -> Vec<&'static Rule> {
    if identity.is_in(MASTERS) {
        return EVERYTHING.iter().collect();
    }
    let mut rules: Vec<&Rule> = Vec::new();
    if identity.is_in(AUTHENTICATED) {
        rules.extend(OWN);
    }
    if identity.is_in(VIEWERS) {
        rules.extend(READING);
    }
    rules
}

/// Whether a path matches a pattern with an optional trailing `*`.
pub fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn names(list: &[&str], word: &str) -> bool {
    list.iter().any(|known| *known == "*" || *known == word)
}

/// Whether the path is open to everybody.
pub fn is_public(path: &str) -> bool {
    PUBLIC_PATHS
        .iter()
        .any(|pattern| path_matches(pattern, path))
}

/// The decision, without a reason: the roles are few and documented.
pub fn is_allowed(
    identity: &Identity,
    verb: &str,
    path: &str,
    resource: Option<&ResourceRef>,
) -> bool {
    rules_of(identity).into_iter().any(|rule| match resource {
        Some(resource) => {
            names(rule.verbs, verb)
                && names(rule.groups, &resource.group)
                && names(rule.resources, &resource.resource_path())
                // Reading everything does not include Secrets; only masters read those.
                && (identity.is_in(MASTERS) || !(resource.group.is_empty() && resource.resource == "secrets"))
        }
        None => names(rule.verbs, verb) && rule.paths.iter().any(|pattern| path_matches(pattern, path)),
    })
}

/// Decides about a request; the error is the 403 that upstream would send.
pub fn authorize(identity: &Identity, attributes: &Attributes) -> Result<(), Status> {
    let resource = attributes.resource.as_ref();
    if is_allowed(identity, attributes.verb, &attributes.path, resource) {
        return Ok(());
    }
    Err(denied(
        identity,
        attributes.verb,
        &attributes.path,
        resource,
    ))
}

/// The standard denial.
pub fn denied(
    identity: &Identity,
    verb: &str,
    path: &str,
    resource: Option<&ResourceRef>,
) -> Status {
    let user = &*identity.user;
    let Some(resource) = resource else {
        return Status::forbidden(format!(
            "forbidden: User {user:?} cannot {verb} path {path:?}"
        ));
    };
    let what = qualified(&resource.resource, &resource.group);
    let name = if resource.name.is_empty() {
        String::new()
    } else {
        format!(" {:?}", resource.name)
    };
    let place = if resource.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", resource.namespace)
    };
    let message = format!(
        "{what}{name} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
        resource.resource_path(),
        resource.group,
    );
    Status::forbidden(message).with_details(Details {
        name: resource.name.clone(),
        group: resource.group.clone(),
        kind: resource.resource.clone(),
        ..Details::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn try_it(groups: &[&str], method: &Method, path: &str) -> Result<(), String> {
        let identity = Identity::new("ada", groups.iter().map(|group| (*group).to_owned()));
        let attributes = Attributes::parse(method, path, None);
        authorize(&identity, &attributes).map_err(|status| status.message)
    }

    #[test]
    fn roles_allow_what_their_table_says() {
        let secrets = "/api/v1/namespaces/a/secrets";
        let job = "/apis/gctl.dev/v1/namespaces/a/jobs/x";
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        for (groups, method, path, allowed) in [
            (&["system:masters"][..], Method::DELETE, job, true),
            (&["system:masters"], Method::GET, secrets, true),
            (&["system:viewers"], Method::GET, job, true),
            (&["system:viewers"], Method::DELETE, job, false),
            (&["system:viewers"], Method::GET, secrets, false),
            (&["system:viewers"], Method::GET, "/metrics", true),
            (&[], Method::GET, job, false),
            (&[], Method::GET, "/metrics", false),
            (&[], Method::GET, "/apis/gctl.dev/v1", true),
            (&[], Method::POST, review, true),
        ] {
            assert_eq!(
                try_it(groups, &method, path).is_ok(),
                allowed,
                "{groups:?} {method} {path}"
            );
        }
    }

    #[test]
    fn denials_use_the_standard_words() {
        assert_eq!(
            try_it(
                &[],
                &Method::PATCH,
                "/apis/gctl.dev/v1/namespaces/a/jobs/x/status"
            )
            .unwrap_err(),
            "jobs.gctl.dev \"x\" is forbidden: User \"ada\" cannot patch resource \"jobs/status\" in API group \
             \"gctl.dev\" in the namespace \"a\""
        );
        assert_eq!(
            try_it(&[], &Method::GET, "/metrics").unwrap_err(),
            "forbidden: User \"ada\" cannot get path \"/metrics\""
        );
    }

    #[test]
    fn only_version_and_health_are_public() {
        assert!(is_public("/version") && is_public("/readyz/ping") && is_public("/livez"));
        assert!(!is_public("/versions") && !is_public("/metrics") && !is_public("/api"));
    }
}

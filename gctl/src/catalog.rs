//! What the server serves: kinds, their paths, and the names people call them by.

use std::fmt::Write as _;

use serde_json::Value;

use crate::api::{self, Api};
use crate::error::Error;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A kind that the server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind, such as `Job`.
    pub kind: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `gctl`.
    pub categories: Vec<String>,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl Resource {
    /// The kind as `group/version` or, for the core group, `version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `jobs.gctl.dev`, or `namespaces` for the core group.
    pub fn full_name(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// `job.gctl.dev/x`, as kubectl names an object.
    pub fn object_name(&self, name: &str) -> String {
        format!("{}/{name}", qualified(&self.singular, &self.group))
    }

    /// True for this group's plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// True for `jobs.gctl.dev`.
    pub fn is_job(&self) -> bool {
        self.is(crds::GROUP, "jobs")
    }

    /// Path of the collection. A namespace of `None` means all of them, or that the kind has none.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            let _ = write!(path, "/namespaces/{}", api::encode(namespace));
        }
        path.push('/');
        path.push_str(&self.plural);
        path
    }

    /// Path of an object.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.collection(namespace), api::encode(name))
    }

    /// The verb is served.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// Everything the server serves, preferred versions first within each group.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    resources: Vec<Resource>,
}

impl Catalog {
    /// Asks the server.
    pub async fn fetch(api: &Api) -> Result<Self, Error> {
        let attempted = "find out what the server serves";
        let core = api.get("/api", AGGREGATED, attempted).await?;
        let named = api.get("/apis", AGGREGATED, attempted).await?;
        if core["kind"] == "APIGroupDiscoveryList" && named["kind"] == "APIGroupDiscoveryList" {
            let mut resources = aggregated(&core);
            resources.extend(aggregated(&named));
            return Ok(Catalog::new(resources));
        }
        let mut resources = Vec::new();
        for version in strings(&core["versions"]) {
            let list = api
                .get(&format!("/api/{version}"), api::JSON, attempted)
                .await?;
            resources.extend(legacy("", &version, &list));
        }
        for group in list(&named["groups"]) {
            let name = text(&group["name"]);
            for version in list(&group["versions"]) {
                let version = text(&version["version"]);
                let path = format!("/apis/{name}/{version}");
                // A group whose document is missing must not hide the others.
                if let Some(list) = api.find(&path, attempted).await? {
                    resources.extend(legacy(&name, &version, &list));
                }
            }
        }
        Ok(Catalog::new(resources))
    }

    /// A catalogue of known resources.
    pub fn new(mut resources: Vec<Resource>) -> Self {
        // Ours first, then Kubernetes' core, then the rest: `jobs` means ours even where batch/v1 is served.
        resources.sort_by_key(|resource| match resource.group.as_str() {
            crds::GROUP => 0,
            "" => 1,
            _ => 2,
        });
        Catalog { resources }
    }

    /// All resources.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The resource of an object's `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// The resource that a person calls so: plural, singular, kind or short name, with `.group` or `.version.group` where that is not clear.
    ///
    /// # Errors
    /// Says which names come close.
    pub fn by_name(&self, name: &str) -> Result<&Resource, Error> {
        let wanted = name.to_lowercase();
        let (word, rest) = wanted.split_once('.').unwrap_or((&wanted, ""));
        let in_group = |resource: &&Resource| {
            rest.is_empty()
                || resource.group == rest
                || rest == format!("{}.{}", resource.version, resource.group)
                || (resource.group.is_empty() && rest == resource.version)
        };
        let tests: [fn(&Resource, &str) -> bool; 4] = [
            |resource, word| resource.plural == word,
            |resource, word| resource.singular == word,
            |resource, word| resource.kind.to_lowercase() == word,
            |resource, word| resource.short_names.iter().any(|short| short == word),
        ];
        tests
            .iter()
            .find_map(|test| {
                self.resources
                    .iter()
                    .filter(in_group)
                    .find(|resource| test(resource, word))
            })
            .ok_or_else(|| Error::UnknownResource {
                name: name.to_owned(),
                hint: self.hint(word),
            })
    }

    /// The resources of a category, such as `gctl` or `all`.
    pub fn category(&self, name: &str) -> Vec<&Resource> {
        let wanted = name.to_lowercase();
        self.resources
            .iter()
            .filter(|resource| {
                resource.categories.contains(&wanted)
                    || (wanted == "all" && resource.group == crds::GROUP)
            })
            .collect()
    }

    fn hint(&self, word: &str) -> String {
        let close: Vec<_> = self
            .resources
            .iter()
            .filter(|resource| {
                let start: String = word.chars().take(3).collect();
                !start.is_empty() && resource.plural.starts_with(&start)
            })
            .map(Resource::full_name)
            .take(3)
            .collect();
        if close.is_empty() {
            String::new()
        } else {
            format!("; is {} meant?", close.join(" or "))
        }
    }
}

fn aggregated(document: &Value) -> Vec<Resource> {
    let mut resources = Vec::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                resources.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: strings(&resource["shortNames"]),
                    categories: strings(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: strings(&resource["verbs"]),
                });
            }
        }
    }
    resources
}

fn legacy(group: &str, version: &str, document: &Value) -> Vec<Resource> {
    list(&document["resources"])
        .iter()
        .filter(|resource| !text(&resource["name"]).contains('/'))
        .map(|resource| {
            let kind = text(&resource["kind"]);
            let singular = match text(&resource["singularName"]) {
                empty if empty.is_empty() => kind.to_lowercase(),
                singular => singular,
            };
            Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                kind,
                plural: text(&resource["name"]),
                singular,
                short_names: strings(&resource["shortNames"]),
                categories: strings(&resource["categories"]),
                namespaced: resource["namespaced"] == true,
                verbs: strings(&resource["verbs"]),
            }
        })
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

/// Catalogues for the tests of other modules.
#[cfg(test)]
pub(crate) mod samples {
    use super::{Catalog, Resource};

    pub(crate) fn resource(group: &str, kind: &str, plural: &str, namespaced: bool) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            namespaced,
            verbs: vec!["get".into(), "list".into(), "watch".into()],
            ..Resource::default()
        }
    }

    pub(crate) fn catalog() -> Catalog {
        let mut job = resource("gctl.dev", "Job", "jobs", true);
        job.short_names = vec!["gj".into()];
        job.categories = vec!["gctl".into()];
        Catalog::new(vec![
            resource("batch", "Job", "jobs", true),
            resource("", "Namespace", "namespaces", false),
            resource(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                false,
            ),
            job,
            resource("gctl.dev", "Queue", "queues", false),
            resource("gctl.dev", "Profile", "profiles", false),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_may_name_a_resource_in_many_ways() {
        let catalog = samples::catalog();
        for (name, expected) in [
            ("jobs", "jobs.gctl.dev"),
            ("job", "jobs.gctl.dev"),
            ("Job", "jobs.gctl.dev"),
            ("gj", "jobs.gctl.dev"),
            ("jobs.gctl.dev", "jobs.gctl.dev"),
            ("jobs.v1.gctl.dev", "jobs.gctl.dev"),
            ("job.batch", "jobs.batch"),
            ("namespaces", "namespaces"),
            ("namespaces.v1", "namespaces"),
        ] {
            assert_eq!(catalog.by_name(name).unwrap().full_name(), expected);
        }
        let error = catalog.by_name("jobz").unwrap_err();
        insta::assert_snapshot!(error, @"the server has no resource type `jobz`; is jobs.gctl.dev or jobs.batch meant?");
        assert!(catalog.by_name("jobs.nowhere").is_err());
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        let catalog = samples::catalog();
        let jobs = catalog.by_name("jobs").unwrap();
        assert_eq!(
            jobs.object(Some("a"), "x"),
            "/apis/gctl.dev/v1/namespaces/a/jobs/x"
        );
        assert_eq!(jobs.collection(None), "/apis/gctl.dev/v1/jobs");
        let namespaces = catalog.by_name("namespace").unwrap();
        assert_eq!(namespaces.object(Some("a"), "x"), "/api/v1/namespaces/x");
    }

    #[test]
    fn both_forms_of_discovery_say_the_same() {
        let new = aggregated(
            &json!({"items": [{"metadata": {"name": "gctl.dev"}, "versions": [{"version": "v1", "resources": [{
            "resource": "jobs", "responseKind": {"kind": "Job"}, "scope": "Namespaced", "singularResource": "job",
            "shortNames": ["gj"], "categories": ["gctl"], "verbs": ["get"]}]}]}]}),
        );
        let old = legacy(
            "gctl.dev",
            "v1",
            &json!({"resources": [
                {"name": "jobs", "kind": "Job", "namespaced": true, "singularName": "job", "shortNames": ["gj"], "categories": ["gctl"], "verbs": ["get"]},
                {"name": "jobs/status", "kind": "Job", "namespaced": true, "verbs": ["get"]}]}),
        );
        assert_eq!(new, old);
    }
}

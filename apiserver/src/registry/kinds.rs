//! The kinds that the server serves at one instant: built-in ones and those that CustomResourceDefinitions declare.
//!
//! # Guarantees
//! A [`Kinds`] never changes: a definition that is added, changed or removed makes a new one that is swapped in whole, so
//! that requests, discovery, OpenAPI and Tables always speak of the same set.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::options::WriteOptions;
use crate::schema::KindSchema;
use crate::schema::managed_fields::Writer;
use crate::store::Revision;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Objects live in a namespace.
    Namespaced,
    /// Objects live beside the namespaces.
    Cluster,
}

impl Scope {
    /// The word that definitions and discovery use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaced => "Namespaced",
            Self::Cluster => "Cluster",
        }
    }
}

/// The kinds that are part of the server. Everything else comes from a CustomResourceDefinition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Event; this is the form in which events are stored.
    CoreEvent,
    /// `events.k8s.io/v1` Event: another view of the stored core events.
    Event,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `coordination.k8s.io/v1` Lease.
    Lease,
    /// `apiextensions.k8s.io/v1` CustomResourceDefinition.
    CustomResourceDefinition,
}

/// A column of the Table that `kubectl get` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub column_type: String,
    /// A format such as `int32`, or empty.
    pub format: String,
    /// What the column says, for people.
    pub description: String,
    /// 0 is always shown, more only when asked for (`-o wide`).
    pub priority: i32,
    /// Where the value lies, in kubectl's dialect of jsonPath (`.status.phase`).
    pub json_path: String,
}

impl Column {
    /// The column that a definition without columns gets.
    pub fn age() -> Self {
        Self {
            name: "Age".to_owned(),
            column_type: "date".to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        }
    }
}

/// Where the replica counts of a kind with a scale subresource lie; jsonPaths with a leading dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted count, under `.spec.`.
    pub spec_replicas: String,
    /// The observed count, under `.status.`.
    pub status_replicas: String,
    /// A label selector in text form, if the kind has one.
    pub label_selector: Option<String>,
}

/// The subresources that a kind has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subresources {
    /// Is `status` written apart from the rest?
    pub status: bool,
    /// Is there a `scale` view?
    pub scale: Option<ScalePaths>,
}

/// A field that lists and watches can select on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// The name in field selectors, for example `status.phase`.
    pub label: Arc<str>,
    /// The keys that lead to the value.
    pub path: Vec<String>,
}

/// One kind in one version, as it is served.
#[derive(Debug)]
pub struct ServedKind {
    /// The API group; empty for the core group.
    pub group: Arc<str>,
    /// The version, for example `v1`.
    pub version: Arc<str>,
    /// `group/version`, or only the version in the core group: what objects carry as `apiVersion`.
    pub api_version: Arc<str>,
    /// The kind, for example `Job`.
    pub kind: Arc<str>,
    /// The kind of lists, for example `JobList`.
    pub list_kind: Arc<str>,
    /// The resource's name in paths, for example `jobs`.
    pub plural: Arc<str>,
    /// The resource's name for one object, for example `job`.
    pub singular: Arc<str>,
    /// Short names that clients accept.
    pub short_names: Vec<String>,
    /// Groups of resources, for example `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// `plural.group`, or only the plural in the core group: what messages call the resource.
    pub resource: Arc<str>,
    /// Under which resource the objects are stored. Equals `resource` except for views of another kind's objects.
    pub storage: Arc<str>,
    /// The `apiVersion` in which objects are stored.
    pub storage_api_version: Arc<str>,
    /// Subresources.
    pub subresources: Subresources,
    /// Printer columns after `Name`; never empty for kinds from definitions (an Age column is the default).
    pub columns: Vec<Column>,
    /// Selectable fields beside `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<SelectableField>,
    /// The selectable fields that stored objects are indexed by: those of all versions.
    pub stored_fields: Arc<[SelectableField]>,
    /// Reads and admits objects.
    pub schema: Arc<KindSchema>,
    /// The structural schema as JSON, as the definition gives it (`openAPIV3Schema`).
    pub open_api: Arc<Value>,
    /// The definition's annotations; empty for built-in kinds.
    pub annotations: Arc<BTreeMap<String, String>>,
    /// The Warning that every request of this version earns.
    pub deprecation: Option<String>,
    /// Is the definition being deleted? Objects can no longer be created then.
    pub terminating: bool,
    /// Which part of the server this kind belongs to; `None` for kinds from definitions.
    pub builtin: Option<Builtin>,
    /// Changes whenever the definition of this kind changes; part of hashes and ETags.
    pub fingerprint: u64,
    /// Objects up to this revision may have been written under an older schema: they are pruned and defaulted when read.
    pub schema_since: Revision,
    /// Cancelled when the kind is no longer served in this form; running watches end then.
    pub ended: CancellationToken,
}

impl ServedKind {
    /// Do objects live in a namespace?
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// `Kind.group`, or only the kind in the core group: what validation messages call the kind.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_string()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// Are objects stored in the very form in which this kind serves them?
    pub fn is_stored_form(&self) -> bool {
        self.api_version == self.storage_api_version
    }

    /// Who writes in the name of whom, for field ownership.
    pub(super) fn writer<'a>(
        &'a self,
        options: &'a WriteOptions,
        subresource: &'a str,
        now: Timestamp,
    ) -> Writer<'a> {
        Writer {
            manager: &options.manager,
            api_version: &self.api_version,
            subresource,
            now,
        }
    }

    /// The verbs that discovery lists for the resource itself, sorted.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.terminating {
            &["delete", "deletecollection", "get", "list", "watch"]
        } else {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        }
    }

    /// May lists and watches select on this field?
    pub fn selects_on(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.is_namespaced())
            || self.selectable.iter().any(|f| &*f.label == field)
    }
}

#[cfg(test)]
impl ServedKind {
    /// A kind for tests of what is made of kinds.
    pub(crate) fn sample() -> Self {
        let text = |text: &str| -> Arc<str> { text.into() };
        Self {
            group: text("gctl.dev"),
            version: text("v1"),
            api_version: text("gctl.dev/v1"),
            kind: text("Job"),
            list_kind: text("JobList"),
            plural: text("jobs"),
            singular: text("job"),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            resource: text("jobs.gctl.dev"),
            storage: text("jobs.gctl.dev"),
            storage_api_version: text("gctl.dev/v1"),
            subresources: Subresources::default(),
            columns: Vec::new(),
            selectable: Vec::new(),
            stored_fields: Arc::new([]),
            schema: crate::schema::builtin::schema("", "v1", "ConfigMap")
                .expect("ConfigMaps are built in"),
            open_api: Arc::new(serde_json::json!({})),
            annotations: Arc::default(),
            deprecation: None,
            terminating: false,
            builtin: None,
            fingerprint: 1,
            schema_since: 0,
            ended: CancellationToken::new(),
        }
    }
}

/// One version of a group with its resources.
#[derive(Clone, Debug)]
pub struct VersionKinds {
    /// The version's name.
    pub version: Arc<str>,
    /// The kinds by plural.
    pub kinds: BTreeMap<Arc<str>, Arc<ServedKind>>,
}

/// One API group with its served versions, the preferred one first.
#[derive(Clone, Debug, Default)]
pub struct GroupKinds {
    /// Served versions in order of preference: GA, beta, alpha, each newest first, then the rest by name.
    pub versions: Vec<VersionKinds>,
}

/// Everything that is served at one instant.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    groups: BTreeMap<Arc<str>, GroupKinds>,
    /// Grows by one with each swap.
    generation: u64,
}

impl Kinds {
    /// Builds the set from kinds in any order; of two with the same path the first stays.
    pub fn new(kinds: impl IntoIterator<Item = Arc<ServedKind>>, generation: u64) -> Self {
        let mut groups: BTreeMap<Arc<str>, GroupKinds> = BTreeMap::new();
        for kind in kinds {
            let versions = &mut groups.entry(Arc::clone(&kind.group)).or_default().versions;
            let at = versions
                .iter()
                .position(|v| v.version == kind.version)
                .unwrap_or_else(|| {
                    versions.push(VersionKinds {
                        version: Arc::clone(&kind.version),
                        kinds: BTreeMap::new(),
                    });
                    versions.len() - 1
                });
            versions[at]
                .kinds
                .entry(Arc::clone(&kind.plural))
                .or_insert(kind);
        }
        for group in groups.values_mut() {
            group
                .versions
                .sort_by_cached_key(|v| version_rank(&v.version));
        }
        Self { groups, generation }
    }

    /// The kind behind `/apis/GROUP/VERSION/PLURAL` (an empty group is `/api`).
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ServedKind>> {
        self.version(group, version)?.kinds.get(plural)
    }

    /// One version of one group.
    pub fn version(&self, group: &str, version: &str) -> Option<&VersionKinds> {
        self.groups
            .get(group)?
            .versions
            .iter()
            .find(|v| &*v.version == version)
    }

    /// One group.
    pub fn group(&self, group: &str) -> Option<&GroupKinds> {
        self.groups.get(group)
    }

    /// All groups by name; the core group is the empty name and comes first.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &GroupKinds)> {
        self.groups.iter()
    }

    /// All served kinds, version by version.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServedKind>> {
        self.groups
            .values()
            .flat_map(|g| &g.versions)
            .flat_map(|v| v.kinds.values())
    }

    /// The kind with this `apiVersion` and `kind`, as owner references name it.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<ServedKind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.version(group, version)?
            .kinds
            .values()
            .find(|k| &*k.kind == kind)
    }

    /// The kind of this group in any served version, the preferred one first.
    pub fn find_in_group(&self, group: &str, kind: &str) -> Option<&Arc<ServedKind>> {
        let versions = &self.groups.get(group)?.versions;
        versions
            .iter()
            .find_map(|v| v.kinds.values().find(|k| &*k.kind == kind))
    }

    /// A kind whose objects are stored under this resource, in the preferred version.
    pub fn find_storage(&self, storage: &str) -> Option<&Arc<ServedKind>> {
        self.iter()
            .find(|k| &*k.storage == storage && k.storage_api_version == k.api_version)
            .or_else(|| self.iter().find(|k| &*k.storage == storage))
    }

    /// Grows by one each time the set changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Sorts versions by preference: smaller is preferred.
type VersionRank = (u8, Reverse<u64>, Reverse<u64>, String);

fn version_rank(version: &str) -> VersionRank {
    let parsed = (|| {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((0, major, 0)),
            tail => {
                let (class, minor) = tail
                    .strip_prefix("beta")
                    .map(|m| (1, m))
                    .or_else(|| tail.strip_prefix("alpha").map(|m| (2, m)))?;
                Some((class, major, minor.parse().ok()?))
            }
        }
    })();
    match parsed {
        Some((class, major, minor)) => (class, Reverse(major), Reverse(minor), String::new()),
        None => (3, Reverse(0), Reverse(0), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_stability_then_by_number() {
        let mut versions = vec![
            "foo1", "v1alpha1", "v10", "v2beta1", "v2", "v10beta3", "v1", "v2beta10", "foo10", "v3",
        ];
        versions.sort_by_cached_key(|v| version_rank(v));
        assert_eq!(
            versions,
            [
                "v10", "v3", "v2", "v1", "v10beta3", "v2beta10", "v2beta1", "v1alpha1", "foo1",
                "foo10"
            ]
        );
    }
}

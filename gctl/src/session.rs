//! What every command works with: the API, the namespace, the catalogue, the clock and the output.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::{self, Api};
use crate::catalog::{Catalog, Resource};
use crate::error::Error;
use crate::output::Output;

/// A source of the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One run of one command.
pub struct Session {
    /// The server.
    pub api: Api,
    /// Namespace in force.
    pub namespace: String,
    /// The namespace was given on the command line, so objects of another one are refused.
    pub namespace_given: bool,
    /// Where results and messages go.
    pub output: Output,
    /// The time.
    pub clock: Clock,
    catalog: Option<Arc<Catalog>>,
}

/// One object that a command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub resource: Resource,
    /// Its namespace, where its kind has them.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Target {
    /// Its path.
    pub fn path(&self) -> String {
        self.resource.object(self.namespace.as_deref(), &self.name)
    }

    /// `job.gctl.dev/x`.
    pub fn label(&self) -> String {
        self.resource.object_name(&self.name)
    }
}

impl Session {
    /// A session of the default namespace on the wall clock.
    pub fn new(api: Api, namespace: impl Into<String>, output: Output) -> Self {
        Session {
            api,
            namespace: namespace.into(),
            namespace_given: false,
            output,
            clock: Arc::new(Timestamp::now),
            catalog: None,
        }
    }

    /// What the server serves, asked once.
    pub async fn catalog(&mut self) -> Result<Arc<Catalog>, Error> {
        if let Some(catalog) = &self.catalog {
            return Ok(catalog.clone());
        }
        self.refresh_catalog().await
    }

    /// What the server serves now.
    pub async fn refresh_catalog(&mut self) -> Result<Arc<Catalog>, Error> {
        let catalog = Arc::new(Catalog::fetch(&self.api).await?);
        self.catalog = Some(catalog.clone());
        Ok(catalog)
    }

    /// The namespace of requests for a kind.
    pub fn namespace_of(&self, resource: &Resource) -> Option<String> {
        resource.namespaced.then(|| self.namespace.clone())
    }

    /// The resource that a person calls so; asks the server again before it gives up.
    pub async fn resource(&mut self, name: &str) -> Result<Resource, Error> {
        if let Ok(found) = self.catalog().await?.by_name(name) {
            return Ok(found.clone());
        }
        self.refresh_catalog().await?.by_name(name).cloned()
    }

    /// The resource of jobs.
    pub async fn jobs(&mut self) -> Result<Resource, Error> {
        self.resource("jobs.gctl.dev").await
    }

    /// Objects named as `TYPE NAME...` or `TYPE/NAME ...`; a `TYPE` alone gives none.
    ///
    /// # Errors
    /// When the type is unknown, or both forms are mixed.
    pub async fn targets(&mut self, words: &[String]) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        if words.iter().any(|word| word.contains('/')) {
            for word in words {
                let Some((kind, name)) = word.split_once('/').filter(|(_, name)| !name.is_empty())
                else {
                    return Err(Error::Usage(format!(
                        "`{word}`: either TYPE NAME... or TYPE/NAME for each object, not both"
                    )));
                };
                targets.push(self.target(kind, name).await?);
            }
        } else if let Some((kind, names)) = words.split_first() {
            for name in names {
                let target = self.target(kind, name).await;
                targets.push(target.map_err(|error| error.or_jobs(words))?);
            }
        }
        Ok(targets)
    }

    /// Objects named as for [`Session::targets`], or the job that is meant by a word alone which is no kind; nothing for a
    /// kind alone.
    ///
    /// # Errors
    /// When several words begin with one that is no kind, or both forms are mixed.
    pub async fn named(&mut self, words: &[String]) -> Result<Option<Vec<Target>>, Error> {
        let [word] = words else {
            return self.targets(words).await.map(Some);
        };
        if word.contains('/') {
            return self.targets(words).await.map(Some);
        }
        match self.resource(word).await {
            Ok(_) => Ok(None),
            Err(Error::UnknownResource { .. }) => self.job_targets(words).await.map(Some),
            Err(error) => Err(error),
        }
    }

    /// Jobs named as `NAME` or `job/NAME`.
    pub async fn job_targets(&mut self, words: &[String]) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        for word in words {
            let target = match word.split_once('/') {
                Some((kind, name)) => self.target(kind, name).await?,
                None => self.target("jobs.gctl.dev", word).await?,
            };
            if !target.resource.is_job() {
                return Err(Error::Usage(format!("`{word}` is not a job")));
            }
            targets.push(target);
        }
        Ok(targets)
    }

    async fn target(&mut self, kind: &str, name: &str) -> Result<Target, Error> {
        let resource = self.resource(kind).await?;
        Ok(Target {
            namespace: self.namespace_of(&resource),
            resource,
            name: name.to_owned(),
        })
    }

    /// All objects of a kind that the selectors choose, page by page, with the revision of the list.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        selection: &Selection,
    ) -> Result<(Vec<Value>, String), Error> {
        let attempted = format!("list {}", resource.full_name());
        let mut items = Vec::new();
        let mut page = String::new();
        loop {
            let uri = format!(
                "{}{}",
                resource.collection(namespace),
                api::query(&[
                    ("labelSelector", &selection.labels),
                    ("fieldSelector", &selection.fields),
                    ("limit", "500"),
                    ("continue", &page),
                ])
            );
            let mut answer = self.api.get(&uri, api::JSON, &attempted).await?;
            if let Some(Value::Array(more)) = answer.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            let metadata = &answer["metadata"];
            let next = metadata["continue"].as_str().unwrap_or_default();
            if next.is_empty() {
                let revision = metadata["resourceVersion"].as_str().unwrap_or_default();
                return Ok((items, revision.to_owned()));
            }
            next.clone_into(&mut page);
        }
    }

    /// Says the warnings that came with answers.
    pub fn say_warnings(&mut self) {
        for warning in self.api.take_warnings() {
            self.output.say(format!("Warning: {warning}"));
        }
    }
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Label selector; empty selects all.
    pub labels: String,
    /// Field selector; empty selects all.
    pub fields: String,
}

impl Selection {
    /// The object of this name.
    pub fn named(name: &str) -> Self {
        Selection {
            labels: String::new(),
            fields: format!("metadata.name={name}"),
        }
    }

    /// Nothing is selected away.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

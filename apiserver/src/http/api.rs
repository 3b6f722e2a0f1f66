//! Requests for resources: from a path and a method to what the registry does, and back to an answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};

use super::attributes::{Attributes, ResourceRef};
use super::negotiate::{BodyForm, Output, Want, body_form};
use super::params::{self, Query};
use super::status::{Status, page_not_found};
use super::{protobuf, table, watch};
use crate::registry::kinds::{Builtin, ServedKind};
use crate::registry::{Deleted, ListOptions, Patch, Registry, Target, Written, limits};
use crate::schema::Part;
use crate::schema::decode::{self, Decoded, Format};

/// One request, taken apart.
struct Call {
    registry: Arc<Registry>,
    kind: Arc<ServedKind>,
    resource: ResourceRef,
    parts: Parts,
    body: Body,
}

/// Answers a request for a resource.
pub async fn handle(registry: Arc<Registry>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let attributes = parts
        .extensions
        .get::<Arc<Attributes>>()
        .cloned()
        .unwrap_or_else(|| {
            Arc::new(Attributes::parse(
                &parts.method,
                parts.uri.path(),
                parts.uri.query(),
            ))
        });
    let Some(resource) = attributes.resource.clone() else {
        return page_not_found();
    };
    let kinds = registry.kinds();
    let Some(kind) = kinds
        .find(&resource.group, &resource.version, &resource.resource)
        .cloned()
    else {
        return page_not_found();
    };
    let verb = attributes.verb;
    if !is_well_placed(&kind, &resource, verb) {
        return page_not_found();
    }
    let pretty_headers = parts.headers.clone();
    let query = parts.uri.query().map(str::to_owned);
    let deprecation = kind.deprecation.clone();
    let call = Call {
        registry,
        kind,
        resource,
        parts,
        body,
    };
    let mut response = match call.dispatch(verb).await {
        Ok(response) => response,
        Err(status) => error(&status, &pretty_headers, query.as_deref()),
    };
    if let Some(text) = deprecation {
        warn(&mut response, &[text]);
    }
    response
}

/// A namespaced resource is named only within a namespace, a cluster-scoped one never within one.
fn is_well_placed(kind: &ServedKind, resource: &ResourceRef, verb: &str) -> bool {
    let has_namespace = !resource.namespace.is_empty();
    if kind.builtin == Some(Builtin::Namespace) {
        return true;
    }
    if kind.is_namespaced() {
        has_namespace || matches!(verb, "list" | "watch")
    } else {
        !has_namespace
    }
}

/// An error in the form that was asked for, or as JSON.
fn error(status: &Status, headers: &HeaderMap, query: Option<&str>) -> Response {
    match Output::read(headers, query, Want::Document) {
        Ok(output) if !output.is_json_passthrough() => {
            let mut plain = status.clone().into_response();
            let body = Bytes::from(status.to_value().to_string());
            let shown = output.respond(status.code, body);
            for (name, value) in shown.headers() {
                plain.headers_mut().insert(name, value.clone());
            }
            let (parts, _) = plain.into_parts();
            Response::from_parts(parts, shown.into_body())
        }
        _ => status.clone().into_response(),
    }
}

/// Adds `Warning` headers.
fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings {
        let clean: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

impl Call {
    async fn dispatch(self, verb: &'static str) -> Result<Response, Status> {
        match &*self.resource.subresource {
            "" => match verb {
                "get" => self.get(),
                "list" => self.list(),
                "watch" => self.watch(),
                "create" if self.names_collection() => self.create().await,
                "update" if !self.names_collection() => self.update(Part::Main).await,
                "patch" if !self.names_collection() => self.patch(Part::Main).await,
                "delete" => self.delete().await,
                "deletecollection" => self.delete_collection().await,
                _ => Err(self.not_allowed(verb)),
            },
            "status" if self.kind.subresources.status => match verb {
                "get" => self.get(),
                "update" => self.update(Part::Status).await,
                "patch" => self.patch(Part::Status).await,
                _ => Err(self.not_allowed(verb)),
            },
            "scale" if self.kind.subresources.scale.is_some() => match verb {
                "get" => self.get_scale(),
                "update" => self.update_scale().await,
                "patch" => self.patch_scale().await,
                _ => Err(self.not_allowed(verb)),
            },
            "finalize" if self.kind.builtin == Some(Builtin::Namespace) => match verb {
                "update" => self.finalize().await,
                _ => Err(self.not_allowed(verb)),
            },
            _ => Err(Status::not_found(
                &self.kind.group,
                &self.kind.plural,
                &self.resource.name,
            )),
        }
    }

    /// Does the path end at the collection? A field selector on `metadata.name` also sets the name of a request.
    fn names_collection(&self) -> bool {
        let path = self.parts.uri.path().trim_end_matches('/');
        path.rsplit('/')
            .next()
            .is_some_and(|last| super::attributes::percent_decode(last) == self.resource.resource)
            && !self.names_namespace()
    }

    /// `/api/v1/namespaces/namespaces` is the Namespace with that name.
    fn names_namespace(&self) -> bool {
        self.kind.builtin == Some(Builtin::Namespace) && !self.resource.namespace.is_empty()
    }

    fn not_allowed(&self, verb: &str) -> Status {
        let method = match verb {
            "create" => "create",
            "update" => "update",
            "delete" | "deletecollection" => "delete",
            other => other,
        };
        Status::method_not_allowed(&self.kind.group, &self.kind.plural, method)
    }

    fn query(&self) -> Query<'_> {
        Query::parse(self.parts.uri.query())
    }

    fn output(&self, want: Want) -> Result<Output, Status> {
        Output::read(&self.parts.headers, self.parts.uri.query(), want)
    }

    /// The namespace of the object; a Namespace lies in none.
    fn namespace(&self) -> &str {
        if self.kind.is_namespaced() {
            &self.resource.namespace
        } else {
            ""
        }
    }

    /// The namespace that a collection is narrowed to.
    fn collection_namespace(&self) -> Option<&str> {
        Some(self.namespace()).filter(|namespace| !namespace.is_empty())
    }

    fn target(&self, part: Part) -> Target<'_> {
        Target {
            kind: &self.kind,
            namespace: self.namespace(),
            name: &self.resource.name,
            part,
        }
    }

    fn get(&self) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let at_least = params::get_revision(&self.query())?;
        let bytes =
            self.registry
                .get(&self.kind, self.namespace(), &self.resource.name, at_least)?;
        Ok(self.object(StatusCode::OK, bytes, output))
    }

    fn object(&self, code: StatusCode, bytes: Bytes, output: Output) -> Response {
        if output.is_json_passthrough() {
            return json_response(code, bytes);
        }
        output.respond(
            code,
            table::object(&self.kind, &bytes, &output, self.registry.now()),
        )
    }

    fn list(&self) -> Result<Response, Status> {
        let output = self.output(Want::List)?;
        let options = params::list_options(&self.query(), &self.registry, &self.kind)?;
        let page = self
            .registry
            .list(&self.kind, self.collection_namespace(), &options)?;
        let meta = table::ListMeta {
            resource_version: page.revision.to_string(),
            continue_token: page.continue_token,
            remaining: page.remaining,
        };
        let body = table::list(&self.kind, &page.items, &meta, &output, self.registry.now());
        Ok(output.respond(StatusCode::OK, body))
    }

    fn watch(self) -> Result<Response, Status> {
        let output = self.output(Want::Watch)?;
        let options = params::watch_options(&self.query(), &self.registry, &self.kind)?;
        let namespace = self.collection_namespace().map(str::to_owned);
        Ok(watch::respond(
            self.registry,
            self.kind,
            namespace.as_deref(),
            options,
            output,
        ))
    }

    async fn create(mut self) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let options = params::write_options(&self.query(), &self.parts.headers, "CreateOptions")?;
        let body = self.object_body().await?;
        let written = self
            .registry
            .create(&self.kind, self.namespace(), body, &options)
            .await?;
        Ok(self.written(written, output))
    }

    fn written(&self, written: Written, output: Output) -> Response {
        let code = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = self.object(code, written.bytes, output);
        warn(&mut response, &written.warnings);
        response
    }

    async fn update(mut self, part: Part) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let options = params::write_options(&self.query(), &self.parts.headers, "UpdateOptions")?;
        let body = self.object_body().await?;
        let written = self
            .registry
            .update(self.target(part), body, &options)
            .await?;
        Ok(self.written(written, output))
    }

    async fn finalize(mut self) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let options = params::write_options(&self.query(), &self.parts.headers, "UpdateOptions")?;
        let body = self.object_body().await?;
        let name = self.resource.name.clone();
        let written = self
            .registry
            .finalize_namespace(&self.kind, &name, body, &options)
            .await?;
        Ok(self.written(written, output))
    }

    async fn patch(mut self, part: Part) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let patch = self.patch_body().await?;
        let options = params::write_options(&self.query(), &self.parts.headers, "PatchOptions")?;
        let written = self
            .registry
            .patch(self.target(part), &patch, &options)
            .await?;
        Ok(self.written(written, output))
    }

    fn get_scale(&self) -> Result<Response, Status> {
        let output = self.output(Want::Document)?;
        let bytes = self
            .registry
            .get_scale(&self.kind, self.namespace(), &self.resource.name)?;
        Ok(output.respond(StatusCode::OK, bytes))
    }

    async fn update_scale(mut self) -> Result<Response, Status> {
        let output = self.output(Want::Document)?;
        let options = params::write_options(&self.query(), &self.parts.headers, "UpdateOptions")?;
        let body = self.object_body().await?;
        let written = self
            .registry
            .update_scale(self.target(Part::Main), &body.value, &options)
            .await?;
        Ok(output.respond(StatusCode::OK, written.bytes))
    }

    async fn patch_scale(mut self) -> Result<Response, Status> {
        let output = self.output(Want::Document)?;
        let patch = self.patch_body().await?;
        let options = params::write_options(&self.query(), &self.parts.headers, "PatchOptions")?;
        let written = self
            .registry
            .patch_scale(self.target(Part::Main), &patch, &options)
            .await?;
        Ok(output.respond(StatusCode::OK, written.bytes))
    }

    async fn delete(mut self) -> Result<Response, Status> {
        let output = self.output(Want::Object)?;
        let options = self.delete_options().await?;
        let name = self.resource.name.clone();
        match self
            .registry
            .delete(&self.kind, self.namespace(), &name, &options)
            .await?
        {
            Deleted::Waiting(bytes) => Ok(self.object(StatusCode::OK, bytes, output)),
            Deleted::Gone { uid, .. } => {
                let mut details = json!({"name": name, "kind": &*self.kind.plural, "uid": &*uid});
                if !self.kind.group.is_empty() {
                    details["group"] = (&*self.kind.group).into();
                }
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                });
                let document = self.output(Want::Document)?;
                Ok(document.respond(StatusCode::OK, status.to_string().into()))
            }
        }
    }

    async fn delete_options(&mut self) -> Result<crate::registry::DeleteOptions, Status> {
        let body = self.read_body().await?;
        let mut options = params::delete_options(&self.query())?;
        if !body.is_empty() {
            let value = match body_form(&self.parts.headers) {
                BodyForm::Protobuf => protobuf::decode_body(&body)?,
                BodyForm::Json | BodyForm::Yaml | BodyForm::Other => {
                    decoded(&body, &self.parts.headers)?.value
                }
                _ => return Err(self.unsupported()),
            };
            options.merge_body(&value, &self.kind.api_version)?;
        }
        Ok(options)
    }

    async fn delete_collection(mut self) -> Result<Response, Status> {
        let output = self.output(Want::List)?;
        let delete = self.delete_options().await?;
        let options: ListOptions = params::list_options(&self.query(), &self.registry, &self.kind)?;
        let (items, page) = self
            .registry
            .delete_collection(&self.kind, self.collection_namespace(), &options, &delete)
            .await?;
        let meta = table::ListMeta {
            resource_version: page.revision.to_string(),
            continue_token: page.continue_token,
            remaining: page.remaining,
        };
        let body = table::list(&self.kind, &items, &meta, &output, self.registry.now());
        Ok(output.respond(StatusCode::OK, body))
    }

    /// Reads the whole body, if it is not too large.
    async fn read_body(&mut self) -> Result<Bytes, Status> {
        let declared = self
            .parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse::<usize>().ok());
        if declared.is_some_and(|length| length > limits::MAX_BODY_BYTES) {
            return Err(Status::too_large(limits::MAX_BODY_BYTES));
        }
        let body = std::mem::replace(&mut self.body, Body::empty());
        match Limited::new(body, limits::MAX_BODY_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(Status::too_large(limits::MAX_BODY_BYTES))
            }
            Err(error) => Err(Status::bad_request(format!(
                "failed to read the body of the request: {error}"
            ))),
        }
    }

    /// The body of a create or an update.
    async fn object_body(&mut self) -> Result<Decoded, Status> {
        let form = body_form(&self.parts.headers);
        let fits = match form {
            BodyForm::Json | BodyForm::Yaml => true,
            BodyForm::Protobuf => self
                .kind
                .builtin
                .is_some_and(|b| b != Builtin::CustomResourceDefinition),
            _ => false,
        };
        if !fits {
            return Err(self.unsupported());
        }
        let body = self.read_body().await?;
        if form == BodyForm::Protobuf {
            return Ok(Decoded {
                value: protobuf::decode_body(&body)?,
                duplicates: Vec::new(),
            });
        }
        decoded(&body, &self.parts.headers)
    }

    fn unsupported(&self) -> Status {
        let mut accepted = vec!["application/json", "application/yaml"];
        if self.kind.builtin.is_some() {
            accepted.push("application/vnd.kubernetes.protobuf");
        }
        Status::unsupported_media_type(&accepted)
    }

    /// The body of a patch. Server-side apply is not offered yet, and says so with the list of what is.
    async fn patch_body(&mut self) -> Result<Patch, Status> {
        let strategic = self
            .kind
            .builtin
            .is_some_and(|b| b != Builtin::CustomResourceDefinition);
        let mut accepted = vec![
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        if strategic {
            accepted.push("application/strategic-merge-patch+json");
        }
        let no_type = !self.parts.headers.contains_key(header::CONTENT_TYPE);
        let form = body_form(&self.parts.headers);
        let offered = match form {
            BodyForm::JsonPatch | BodyForm::MergePatch => !no_type,
            BodyForm::StrategicMergePatch => strategic,
            _ => false,
        };
        if !offered {
            return Err(Status::unsupported_media_type(&accepted));
        }
        if self
            .query()
            .get("force")
            .is_some_and(|force| !force.is_empty())
        {
            use crate::schema::field_error::{FieldError, Path};
            let error = FieldError::forbidden(
                &Path::Root.field("force"),
                "may not be specified for non-apply patch",
            );
            return Err(crate::registry::invalid_options("PatchOptions", error));
        }
        let body = self.read_body().await?;
        let document = decode::decode(&body, Format::Json)
            .map_err(|why| Status::bad_request(why.to_string()))?;
        match form {
            BodyForm::JsonPatch => {
                let Value::Array(operations) = &document.value else {
                    return Err(Status::bad_request(
                        "json: cannot unmarshal the body into a list of JSON patch operations",
                    ));
                };
                if operations.len() > limits::MAX_PATCH_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {}, got {}",
                        limits::MAX_PATCH_OPERATIONS,
                        operations.len()
                    );
                    return Err(Status::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "RequestEntityTooLarge",
                        message,
                    ));
                }
                Ok(Patch::Json(document))
            }
            _ if !document.value.is_object() => Err(Status::bad_request(
                "json: cannot unmarshal the body of the patch into an object",
            )),
            BodyForm::StrategicMergePatch => Ok(Patch::Strategic(document)),
            _ => Ok(Patch::Merge(document)),
        }
    }
}

fn decoded(body: &[u8], headers: &HeaderMap) -> Result<Decoded, Status> {
    let format = if body_form(headers) == BodyForm::Yaml {
        Format::Yaml
    } else {
        Format::Json
    };
    decode::decode(body, format).map_err(|why| Status::bad_request(why.to_string()))
}

/// The bytes themselves, as they are stored.
pub(super) fn json_response(code: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

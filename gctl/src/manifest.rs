//! Reads manifests: files, directories and standard input, in YAML or JSON, with several documents each.
//!
//! **Guarantees.** One broken document does not hide the others: each gets its own error with its number and line. Duplicate keys, alias
//! bombs and excessive nesting are refused. A `List` counts as its items.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Largest file that is read, in bytes (chosen: ten times what the server takes in one request).
const FILE_LIMIT: u64 = 32 << 20;
/// Deepest nesting of directories that `-R` follows.
const DEPTH_LIMIT: usize = 32;

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file itself could not be read.
    #[error("failed to read `{}`: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("`{}` is larger than {} MiB", .path.display(), FILE_LIMIT >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A directory has no manifests in it.
    #[error("no .yaml, .yml or .json file in `{}`{}", .path.display(), if *.recursive { "" } else { "; -R looks into the directories below it too" })]
    Empty {
        /// The directory.
        path: PathBuf,
        /// Subdirectories were searched.
        recursive: bool,
    },
    /// A document is malformed.
    #[error("{place}: {reason}")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
}

/// Where in which file a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or `-` for standard input.
    pub path: PathBuf,
    /// The document's number in the file, from 1.
    pub document: usize,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{}:{} (document {})",
            self.path.display(),
            self.line,
            self.document
        )
    }
}

/// An object as a person wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub object: Value,
}

impl Manifest {
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }
}

/// What was read: the good documents in order, and what was wrong with the others.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Objects.
    pub good: Vec<Manifest>,
    /// Errors.
    pub bad: Vec<ManifestError>,
}

/// Reads every given file, directory or `-`.
pub fn read_all(paths: &[PathBuf], recursive: bool) -> Manifests {
    let mut manifests = Manifests::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            match std::io::stdin()
                .lock()
                .take(FILE_LIMIT + 1)
                .read_to_string(&mut text)
            {
                Ok(length) if length as u64 > FILE_LIMIT => {
                    manifests
                        .bad
                        .push(ManifestError::TooLarge { path: path.clone() });
                }
                Ok(_) => parse(path, &text, &mut manifests),
                Err(source) => manifests.bad.push(ManifestError::Unreadable {
                    path: path.clone(),
                    source,
                }),
            }
            continue;
        }
        match files(path, recursive) {
            Ok(files) => {
                for file in files {
                    read_file(&file, &mut manifests);
                }
            }
            Err(error) => manifests.bad.push(error),
        }
    }
    manifests
}

/// The manifest files that a path stands for: itself, or what is in the directory, in the order of names.
///
/// # Errors
/// When the path or a directory cannot be read, or a directory has none.
pub fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, recursive, 0, &mut found)?;
    if found.is_empty() {
        return Err(ManifestError::Empty {
            path: path.to_owned(),
            recursive,
        });
    }
    Ok(found)
}

/// True for the names that count as manifests in a directory.
pub fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let known = path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
    });
    known && !hidden
}

fn walk(
    directory: &Path,
    recursive: bool,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), ManifestError> {
    let unreadable = |source| ManifestError::Unreadable {
        path: directory.to_owned(),
        source,
    };
    let mut entries = std::fs::read_dir(directory)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if recursive && !hidden && depth < DEPTH_LIMIT {
                walk(&path, recursive, depth + 1, found)?;
            }
        } else if is_manifest(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads one file into `manifests`.
pub fn read_file(path: &Path, manifests: &mut Manifests) {
    let unreadable = |source| ManifestError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let read = std::fs::metadata(path).and_then(|metadata| {
        if metadata.len() > FILE_LIMIT {
            Ok(None)
        } else {
            std::fs::read_to_string(path).map(Some)
        }
    });
    match read {
        Ok(Some(text)) => parse(path, &text, manifests),
        Ok(None) => manifests.bad.push(ManifestError::TooLarge {
            path: path.to_owned(),
        }),
        Err(source) => manifests.bad.push(unreadable(source)),
    }
}

/// Reads the documents of a text.
pub fn parse(path: &Path, text: &str, manifests: &mut Manifests) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut number = 0;
    for (line, document) in split(text) {
        if is_blank(document) {
            continue;
        }
        number += 1;
        let place = Place {
            path: path.to_owned(),
            document: number,
            line: first_content_line(line, document),
        };
        match parse_document(document) {
            Ok(value) => take(place, value, manifests),
            Err((offset, reason)) => {
                let line = offset.map_or(place.line, |offset| line + offset - 1);
                manifests.bad.push(ManifestError::Malformed {
                    place: Place { line, ..place },
                    reason,
                });
            }
        }
    }
}

/// Documents with the number of their first line. A document ends at a line that starts with `---` and a space or nothing.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t']));
        if marker {
            documents.push((start_line, &text[start..at]));
            // What follows the marker on its line belongs to the document.
            start = at + 3;
            start_line = index + 1;
        }
        at += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    })
}

fn first_content_line(start: usize, document: &str) -> usize {
    start
        + document
            .lines()
            .position(|line| {
                let line = line.trim();
                !line.is_empty() && !line.starts_with('#')
            })
            .unwrap_or(0)
}

type Malformed = (Option<usize>, String);

fn parse_document(text: &str) -> Result<Value, Malformed> {
    // JSON is read by its own parser first: it allows tabs, and its errors are better.
    let yaml = if text.trim_start().starts_with('{') {
        let mut reader = serde_json::Deserializer::from_str(text);
        match serde_yaml::Value::deserialize(&mut reader)
            .and_then(|value| reader.end().map(|()| value))
        {
            Ok(value) => Ok(value),
            Err(error) => parse_yaml(text)
                .map_err(|_| (Some(error.line()), without_position(&error.to_string()))),
        }
    } else {
        parse_yaml(text)
    }?;
    to_json(yaml, &mut String::new()).map_err(|reason| (None, reason))
}

fn parse_yaml(text: &str) -> Result<serde_yaml::Value, Malformed> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        (line, without_position(&error.to_string()))
    })?;
    value
        .apply_merge()
        .map_err(|error| (None, error.to_string()))?;
    Ok(value)
}

/// A parser's message without the positions in it, which count from the start of the document and not of the file.
fn without_position(message: &str) -> String {
    let mut text = message.to_owned();
    while let Some(start) = text.find(" at line ") {
        let rest = &text[start + " at line ".len()..];
        let position = rest
            .find(|c: char| !(c.is_ascii_digit() || c == ' ' || "column".contains(c)))
            .unwrap_or(rest.len());
        let end = text.len() - rest.len() + position;
        text.replace_range(start..end, "");
    }
    text
}

/// YAML as JSON, with the path of what JSON cannot say.
fn to_json(value: serde_yaml::Value, path: &mut String) -> Result<Value, String> {
    Ok(match value {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(value) => Value::Bool(value),
        serde_yaml::Value::String(value) => Value::String(value),
        serde_yaml::Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                Value::from(integer)
            } else if let Some(integer) = number.as_u64() {
                Value::from(integer)
            } else {
                number
                    .as_f64()
                    .and_then(serde_json::Number::from_f64)
                    .map(Value::Number)
                    .ok_or_else(|| format!("{path}: `{number}` is no number that JSON knows"))?
            }
        }
        serde_yaml::Value::Sequence(items) => {
            let length = path.len();
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                let _ = write!(path, "[{index}]");
                list.push(to_json(item, path)?);
                path.truncate(length);
            }
            Value::Array(list)
        }
        serde_yaml::Value::Mapping(entries) => {
            let length = path.len();
            let mut map = Map::new();
            for (key, item) in entries {
                let key = match key {
                    serde_yaml::Value::String(key) => key,
                    serde_yaml::Value::Number(key) => key.to_string(),
                    serde_yaml::Value::Bool(key) => key.to_string(),
                    _ => return Err(format!("{path}: a key must be text")),
                };
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&key);
                map.insert(key, to_json(item, path)?);
                path.truncate(length);
            }
            Value::Object(map)
        }
        serde_yaml::Value::Tagged(tagged) => {
            return Err(format!(
                "{path}: the tag `{}` is not known here",
                tagged.tag
            ));
        }
    })
}

/// Checks that a document is an object of the API, and opens lists.
fn take(place: Place, value: Value, manifests: &mut Manifests) {
    let mut malformed = |reason: String| {
        manifests.bad.push(ManifestError::Malformed {
            place: place.clone(),
            reason,
        });
    };
    if value.is_null() {
        return;
    }
    if !value.is_object() {
        malformed("a mapping with apiVersion, kind and metadata is expected".to_owned());
        return;
    }
    for field in ["apiVersion", "kind"] {
        match value[field].as_str() {
            Some(text) if !text.is_empty() => {}
            Some(_) | None if value[field].is_null() || value[field] == "" => {
                malformed(format!("{field}: Required value"));
                return;
            }
            _ => {
                malformed(format!(
                    "{field}: Invalid value: {}: must be text",
                    value[field]
                ));
                return;
            }
        }
    }
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if is_list && value["items"].is_array() {
        let Value::Object(mut list) = value else {
            return;
        };
        if let Some(Value::Array(items)) = list.remove("items") {
            for item in items {
                take(place.clone(), item, manifests);
            }
        }
        return;
    }
    let metadata = &value["metadata"];
    let named = ["name", "generateName"].iter().any(|field| {
        metadata[field]
            .as_str()
            .is_some_and(|name| !name.is_empty())
    });
    if !named {
        malformed(format!(
            "metadata.name: Required value: a {} needs a name",
            value["kind"].as_str().unwrap_or_default()
        ));
        return;
    }
    manifests.good.push(Manifest {
        place,
        object: value,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(text: &str) -> Manifests {
        let mut manifests = Manifests::default();
        parse(Path::new("x.yaml"), text, &mut manifests);
        manifests
    }

    fn errors(text: &str) -> String {
        let errors: Vec<_> = parsed(text).bad.iter().map(ToString::to_string).collect();
        errors.join("\n")
    }

    #[test]
    fn one_broken_document_does_not_hide_the_others() {
        let text = "\
# a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: [
metadata:
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
";
        let manifests = parsed(text);
        let names: Vec<_> = manifests.good.iter().map(Manifest::name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(manifests.good[1].place.document, 3);
        assert_eq!(manifests.good[1].place.line, 11);
        insta::assert_snapshot!(manifests.bad[0], @"x.yaml:10 (document 2): did not find expected node content, while parsing a flow node");
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_field() {
        insta::assert_snapshot!(errors("kind: Job\nmetadata: {name: x}"), @"x.yaml:1 (document 1): apiVersion: Required value");
        insta::assert_snapshot!(errors("apiVersion: v1\nkind: Job\n"), @"x.yaml:1 (document 1): metadata.name: Required value: a Job needs a name");
        insta::assert_snapshot!(errors("apiVersion: 1\nkind: Job\nmetadata: {name: x}\n"), @"x.yaml:1 (document 1): apiVersion: Invalid value: 1: must be text");
        insta::assert_snapshot!(errors("- a\n- b\n"), @"x.yaml:1 (document 1): a mapping with apiVersion, kind and metadata is expected");
        insta::assert_snapshot!(errors("a: 1\na: 2\n"), @r#"x.yaml:1 (document 1): duplicate entry with key "a""#);
        insta::assert_snapshot!(errors("{\"a\": 1, \"a\": 2}"), @r#"x.yaml:1 (document 1): duplicate entry with key "a""#);
        insta::assert_snapshot!(errors("apiVersion: v1\nkind: X\nmetadata: {name: x}\nspec: {a: [1, .nan]}\n"), @"x.yaml:1 (document 1): spec.a[1]: `.nan` is no number that JSON knows");
        insta::assert_snapshot!(errors("apiVersion: v1\nkind: X\nmetadata: {name: x}\nspec: !secret x\n"), @"x.yaml:1 (document 1): spec: the tag `!secret` is not known here");
    }

    #[test]
    fn an_alias_bomb_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let alias = format!("*a{}", level - 1);
            let aliases = vec![alias; 10].join(", ");
            let _ = writeln!(bomb, "a{level}: &a{level} [{aliases}]");
        }
        insta::assert_snapshot!(errors(&bomb), @"x.yaml:1 (document 1): repetition limit exceeded");
        let deep = format!("a: {}{}", "[".repeat(1000), "]".repeat(1000));
        insta::assert_snapshot!(errors(&deep), @"x.yaml:1 (document 1): recursion limit exceeded");
    }

    #[test]
    fn json_lists_and_several_documents_are_read() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "A", "metadata": {"name": "1"}},
            {"apiVersion": "v1", "kind": "B", "metadata": {"generateName": "2-"}}]});
        let manifests = parsed(&format!("{list:#}\n---\n{list}\n"));
        assert_eq!(manifests.good.len(), 4);
        assert!(manifests.bad.is_empty());
    }

    #[test]
    fn a_directory_gives_its_manifests_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let names: Vec<_> = files(directory.path(), false)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            files(empty.path(), true),
            Err(ManifestError::Empty { .. })
        ));
    }
}

//! Label and field selectors: parsing with Kubernetes' error texts, and matching.
//!
//! # Limits
//! A selector text is at most 64 KiB ([`MAX_BYTES`]); longer ones are refused before they are read.

use std::collections::BTreeSet;

use crate::schema::names;

/// The longest selector that is parsed, in bytes. Chosen: a URL that carries more is refused by most HTTP stacks.
pub const MAX_BYTES: usize = 64 * 1024;

/// Why a selector could not be used; answered as 400 BadRequest with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The label selector is malformed.
    #[error("{0}")]
    Labels(String),
    /// The field selector is malformed.
    #[error("{0}")]
    Fields(String),
    /// The field selector names a field that this resource does not select on.
    #[error("field label not supported: {0}")]
    UnsupportedField(String),
}

/// What a list, watch or deletecollection selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Requirements on labels.
    pub labels: LabelSelector,
    /// Requirements on selectable fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// Parses the two query parameters; `supported` says which fields the resource selects on.
    pub fn parse(
        labels: Option<&str>,
        fields: Option<&str>,
        supported: impl Fn(&str) -> bool,
    ) -> Result<Self, SelectorError> {
        Ok(Self {
            labels: LabelSelector::parse(labels.unwrap_or_default())?,
            fields: FieldSelector::parse(fields.unwrap_or_default(), supported)?,
        })
    }

    /// Does this select everything?
    pub fn is_everything(&self) -> bool {
        self.labels.requirements.is_empty() && self.fields.terms.is_empty()
    }

    /// Does an object with these labels and fields belong to the selection?
    /// `label` answers the value of a label by name; `None` is one that is absent. `field` answers the value of a field by name; `None` counts as the empty string.
    pub fn matches<'a>(
        &self,
        label: impl Fn(&str) -> Option<&'a str>,
        field: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        self.fields.matches(field) && self.labels.matches(label)
    }

    /// The one value that the field must have, if the selection demands one (for watcher indexes
    /// and for requests by name).
    pub fn field_equals(&self, name: &str) -> Option<&str> {
        self.fields.equals(name)
    }
}

/// How a label is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `k=v`, `k==v`, `k in (..)`: present with one of these values.
    In(BTreeSet<String>),
    /// `k!=v`, `k notin (..)`: absent, or present with another value.
    NotIn(BTreeSet<String>),
    /// `k`
    Exists,
    /// `!k`
    DoesNotExist,
    /// `k>n`: present, and a larger integer.
    GreaterThan(i64),
    /// `k<n`: present, and a smaller integer.
    LessThan(i64),
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What its value must be.
    pub operator: Operator,
}

impl Requirement {
    fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = label(&self.key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(n) => number().is_some_and(|v| v > *n),
            Operator::LessThan(n) => number().is_some_and(|v| v < *n),
        }
    }
}

/// Requirements on labels, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses `a=b,c in (d,e),!f`; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError::Labels(format!(
                "unable to parse requirement: label selector is longer than {MAX_BYTES} bytes"
            )));
        }
        let requirements = LabelParser::new(text)
            .parse()
            .map_err(SelectorError::Labels)?;
        Ok(Self { requirements })
    }

    /// Do these labels meet all requirements?
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(&label))
    }

    /// The requirements, in the order they were written.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Identifier,
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    GreaterThan,
    LessThan,
    Comma,
    Open,
    Close,
    Not,
    End,
    Unknown,
}

/// The operators Kubernetes lists when it expected one.
const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

struct LabelParser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl LabelParser {
    fn new(text: &str) -> Self {
        Self {
            tokens: lex(text),
            position: 0,
        }
    }

    /// The next token as it reads where a key or value is expected: `in` is then a plain word.
    fn look(&self) -> (Token, &str) {
        match self.tokens.get(self.position) {
            Some((Token::In | Token::NotIn, text)) => (Token::Identifier, text),
            Some((token, text)) => (*token, text),
            None => (Token::End, ""),
        }
    }

    fn take(&mut self) -> (Token, String) {
        let (token, text) = self.look();
        let taken = (token, text.to_owned());
        self.position += 1;
        taken
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.look() {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self
                        .requirement()
                        .map_err(|why| format!("unable to parse requirement: {why}"))?;
                    requirements.push(requirement);
                    match self.take() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.look() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => {
                                return Err(format!(
                                    "found '{text}', expected: identifier after ','"
                                ));
                            }
                        },
                        (_, text) => {
                            return Err(format!(
                                "found '{text}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => {
                    return Err(format!(
                        "found '{text}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        complain("<nil>", &key, names::qualified_name(&key))?;
        if negated {
            return Ok(Requirement {
                key,
                operator: Operator::DoesNotExist,
            });
        }
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(Requirement {
                key,
                operator: Operator::Exists,
            });
        }
        let (token, text) = self
            .tokens
            .get(self.position)
            .cloned()
            .unwrap_or((Token::End, String::new()));
        self.position += 1;
        let operator = match token {
            Token::In => Operator::In(self.value_set(&key)?),
            Token::NotIn => Operator::NotIn(self.value_set(&key)?),
            Token::Equals | Token::DoubleEquals => Operator::In([self.value(&key)?].into()),
            Token::NotEquals => Operator::NotIn([self.value(&key)?].into()),
            Token::GreaterThan => Operator::GreaterThan(self.number(&key)?),
            Token::LessThan => Operator::LessThan(self.number(&key)?),
            _ => return Err(format!("found '{text}', expected: {BINARY_OPERATORS}")),
        };
        Ok(Requirement { key, operator })
    }

    fn raw_value(&mut self) -> Result<String, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        let value = self.raw_value()?;
        complain(
            &format!("values[0][{key}]"),
            &value,
            names::label_value(&value),
        )?;
        Ok(value)
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value(key)?;
        value.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn value_set(&mut self, key: &str) -> Result<BTreeSet<String>, String> {
        match self.take() {
            (Token::Open, _) => {}
            (_, text) => return Err(format!("found '{text}' expected: '('")),
        }
        let mut values = BTreeSet::new();
        match self.look() {
            (Token::Identifier | Token::Comma, _) => self.values(&mut values)?,
            (Token::Close, _) => {
                values.insert(String::new());
            }
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        match self.take() {
            (Token::Close, _) => {}
            (_, text) => return Err(format!("found '{text}', expected: ')'")),
        }
        for (at, value) in values.iter().enumerate() {
            complain(
                &format!("values[{at}][{key}]"),
                value,
                names::label_value(value),
            )?;
        }
        Ok(values)
    }

    fn values(&mut self, values: &mut BTreeSet<String>) -> Result<(), String> {
        loop {
            match self.take() {
                (Token::Identifier, text) => {
                    values.insert(text);
                    match self.look() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(()),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.look().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(());
                        }
                        Token::Comma => {
                            self.position += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

fn complain(path: &str, value: &str, wrong: Vec<String>) -> Result<(), String> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{path}: Invalid value: {value:?}: {}",
        wrong.join("; ")
    ))
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        "=" => Token::Equals,
        "==" => Token::DoubleEquals,
        "!=" => Token::NotEquals,
        "!" => Token::Not,
        ">" => Token::GreaterThan,
        "<" => Token::LessThan,
        "(" => Token::Open,
        ")" => Token::Close,
        "," => Token::Comma,
        _ => return None,
    })
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let length = if is_symbol(first) {
            let two = rest.get(..2).filter(|two| symbol(two).is_some());
            two.map_or(1, str::len)
        } else {
            rest.find(|c| is_symbol(c) || is_space(c))
                .unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(length);
        let token = match word {
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ if is_symbol(first) => symbol(word).unwrap_or(Token::Unknown),
            _ => Token::Identifier,
        };
        tokens.push((token, word.to_owned()));
        rest = after.trim_start_matches(is_space);
    }
    tokens
}

/// One requirement on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's name, such as `metadata.name`.
    pub field: String,
    /// The value compared with; a missing field counts as empty.
    pub value: String,
    /// Must the field have this value (`=`), or another one (`!=`)?
    pub equal: bool,
}

/// Requirements on selectable fields, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses `metadata.name=x,status.phase!=Running`; the empty text selects everything.
    pub fn parse(text: &str, supported: impl Fn(&str) -> bool) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError::Fields(format!(
                "invalid selector: field selector is longer than {MAX_BYTES} bytes"
            )));
        }
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(part) else {
                return Err(SelectorError::Fields(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let value = unescape(value)?;
            if !supported(field) {
                return Err(SelectorError::UnsupportedField(field.to_owned()));
            }
            terms.push(FieldTerm {
                field: field.to_owned(),
                value,
                equal,
            });
        }
        Ok(Self { terms })
    }

    /// Do these fields meet all requirements?
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equal)
    }

    /// The value that an `=` term demands of this field.
    pub fn equals(&self, name: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.field == name)
            .map(|term| term.value.as_str())
    }

    /// The fields that must have one value, with that value: every `=` term, in order.
    pub fn demands(&self) -> impl Iterator<Item = (&str, &str)> {
        self.terms
            .iter()
            .filter(|term| term.equal)
            .map(|term| (term.field.as_str(), term.value.as_str()))
    }

    /// The terms, in the order they were written.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term
        .match_indices(['=', '!'])
        .map(|(at, _)| at)
        .find(|at| term[*at..].starts_with('=') || term[*at..].starts_with("!="))?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let bad = |what: String| SelectorError::Fields(format!("invalid field selector: {what}"));
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                Some(other) => return Err(bad(format!("invalid escape sequence: \\{other}"))),
                None => return Err(bad("invalid escape sequence: \\".to_owned())),
            },
            ',' | '=' => {
                return Err(bad(format!(
                    "unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;

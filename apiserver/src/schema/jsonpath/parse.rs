//! Reads templates and paths. Every error names the place as a character position from 1.

use serde_json::Value;

use super::{Comparison, Filter, Operand, Piece, Step};

/// Ranges and filters nested deeper than this are refused.
const DEPTH_LIMIT: usize = 16;

pub(super) fn template(text: &str) -> Result<Vec<Piece>, String> {
    Parser::new(text).pieces(0)
}

/// One path and nothing behind it.
pub(super) fn path(text: &str) -> Result<Vec<Step>, String> {
    let mut parser = Parser::new(text);
    let steps = parser.path()?;
    if parser.peek().is_some() {
        return Err(parser.wrong("the end of the path expected"));
    }
    Ok(steps)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    /// Filters that are open.
    filters: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Self {
            chars: text.chars().collect(),
            at: 0,
            filters: 0,
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let length = word.chars().count();
        let end = self.at + length;
        if end <= self.chars.len() && self.chars[self.at..end].iter().copied().eq(word.chars()) {
            self.at = end;
            true
        } else {
            false
        }
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.spaces();
        if self.eat(wanted) {
            Ok(())
        } else {
            Err(self.wrong(&format!("`{wanted}` expected")))
        }
    }

    fn wrong(&self, what: &str) -> String {
        match self.peek() {
            Some(found) => format!("{what} at character {}, found `{found}`", self.at + 1),
            None => format!("{what} at the end"),
        }
    }

    /// Pieces up to the end of the text, or within a range up to its `{end}`.
    fn pieces(&mut self, depth: usize) -> Result<Vec<Piece>, String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("more than {DEPTH_LIMIT} nested ranges"));
        }
        let mut pieces = Vec::new();
        loop {
            let text: String = self.chars[self.at..]
                .iter()
                .take_while(|&&c| c != '{')
                .collect();
            if !text.is_empty() {
                self.at += text.chars().count();
                pieces.push(Piece::Text(text));
            }
            if !self.eat('{') {
                return if depth == 0 {
                    Ok(pieces)
                } else {
                    Err("`{range}` without `{end}`".to_owned())
                };
            }
            self.spaces();
            if self.eat_word("end}") {
                return if depth > 0 {
                    Ok(pieces)
                } else {
                    Err(format!(
                        "`{{end}}` without `{{range}}` before character {}",
                        self.at
                    ))
                };
            }
            if self.eat_word("range ") {
                self.spaces();
                let steps = self.path()?;
                self.expect('}')?;
                pieces.push(Piece::Range(steps, self.pieces(depth + 1)?));
                continue;
            }
            while !self.eat('}') {
                match self.peek() {
                    Some('"' | '\'') => pieces.push(Piece::Text(self.quoted()?)),
                    Some(_) => pieces.push(Piece::Path(self.path()?)),
                    None => return Err(self.wrong("`}` expected")),
                }
                self.spaces();
            }
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let quote = self.peek().ok_or_else(|| self.wrong("a quote expected"))?;
        let start = self.at + 1;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(format!("text without closing quote from character {start}")),
                Some('\\') => {
                    self.at += 1;
                    text.push(match self.peek() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('r') => '\r',
                        Some(other) => other,
                        None => return Err(self.wrong("a character after `\\` expected")),
                    });
                    self.at += 1;
                }
                Some(c) if c == quote => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(c) => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    fn path(&mut self) -> Result<Vec<Step>, String> {
        let start = self.at;
        let mut steps = Vec::new();
        if self.eat('$') {
            steps.push(Step::Root);
        } else if !self.eat('@') && !matches!(self.peek(), Some('.' | '[')) {
            let name = self.name()?;
            if !name.is_empty() {
                steps.push(Step::Fields(vec![name]));
            }
        }
        loop {
            if self.eat_word("..") {
                let name = self.name()?;
                if name.is_empty() {
                    return Err(self.wrong("a field name expected"));
                }
                steps.push(Step::Anywhere(name));
            } else if self.eat('.') {
                if self.eat('*') {
                    steps.push(Step::Every);
                    continue;
                }
                let name = self.name()?;
                if !name.is_empty() {
                    steps.push(Step::Fields(vec![name]));
                } else if self.peek() == Some('[') || self.at_end_of_path() {
                    // `{.}` is the object itself, and `.[0]` is `[0]`.
                } else {
                    return Err(self.wrong("a field name expected"));
                }
            } else if self.eat('[') {
                steps.push(self.bracket()?);
            } else {
                break;
            }
        }
        if self.at == start {
            return Err(self.wrong("a path expected"));
        }
        Ok(steps)
    }

    fn at_end_of_path(&self) -> bool {
        self.peek()
            .is_none_or(|c| c.is_whitespace() || matches!(c, '}' | ')' | '=' | '!' | '<' | '>'))
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    let missing = self.wrong("a character after `\\` expected");
                    name.push(self.peek().ok_or(missing)?);
                }
                '.' | '[' | ']' | '{' | '}' | '(' | ')' | '=' | '!' | '<' | '>' | ',' | '"'
                | '\'' | '@' | '$' | '*' | '?' => break,
                c if c.is_whitespace() => break,
                c => name.push(c),
            }
            self.at += 1;
        }
        Ok(name)
    }

    /// What stands in brackets, after the opening one.
    fn bracket(&mut self) -> Result<Step, String> {
        self.spaces();
        if self.eat('*') {
            self.expect(']')?;
            return Ok(Step::Every);
        }
        if self.eat('?') {
            self.expect('(')?;
            let filter = self.filter()?;
            self.expect(')')?;
            self.expect(']')?;
            return Ok(Step::Filter(filter));
        }
        if matches!(self.peek(), Some('"' | '\'')) {
            let mut names = vec![self.quoted()?];
            self.spaces();
            while self.eat(',') {
                self.spaces();
                names.push(self.quoted()?);
                self.spaces();
            }
            self.expect(']')?;
            return Ok(Step::Fields(names));
        }
        let first = self.integer()?;
        self.spaces();
        if self.eat(':') {
            let to = self.integer()?;
            self.spaces();
            let step = if self.eat(':') { self.integer()? } else { None };
            self.expect(']')?;
            let step = step.unwrap_or(1);
            if step < 1 {
                return Err("the step of a slice is at least 1".to_owned());
            }
            return Ok(Step::Slice {
                from: first,
                to,
                step,
            });
        }
        let missing = self.wrong("an index, a quoted name, `*` or `?(` expected");
        let mut indices = vec![first.ok_or(missing)?];
        while self.eat(',') {
            self.spaces();
            let missing = self.wrong("an index expected");
            indices.push(self.integer()?.ok_or(missing)?);
            self.spaces();
        }
        self.expect(']')?;
        Ok(Step::Indices(indices))
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        self.spaces();
        let digits: String = self.chars[self.at..]
            .iter()
            .enumerate()
            .take_while(|&(index, c)| c.is_ascii_digit() || (index == 0 && *c == '-'))
            .map(|(_, c)| *c)
            .collect();
        if digits.is_empty() {
            return Ok(None);
        }
        let number = digits
            .parse()
            .map_err(|_| self.wrong("a smaller number expected"))?;
        self.at += digits.len();
        Ok(Some(number))
    }

    fn filter(&mut self) -> Result<Filter, String> {
        self.filters += 1;
        if self.filters > DEPTH_LIMIT {
            return Err(format!("more than {DEPTH_LIMIT} nested filters"));
        }
        let left = self.operand()?;
        self.spaces();
        let comparison = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| self.eat_word(sign).then_some(comparison));
        let test = match comparison {
            Some(comparison) => Some((comparison, self.operand()?)),
            None => None,
        };
        self.filters -= 1;
        Ok(Filter { left, test })
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.spaces();
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            _ => {
                let word: String = self.chars[self.at..]
                    .iter()
                    .take_while(|&&c| c.is_alphanumeric() || matches!(c, '-' | '+' | '.'))
                    .collect();
                let value = serde_json::from_str(&word).map_err(|_| {
                    self.wrong("a path, a number, true, false or a quoted text expected")
                })?;
                self.at += word.chars().count();
                Ok(Operand::Literal(value))
            }
        }
    }
}

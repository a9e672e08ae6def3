//! Reads the TOML file and `--set`, and says where what is wrong stands.

use super::{Config, Error};
use crate::control::listen::{self, Listen};
use serde::Deserialize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a configuration comes from: the same again at each reload.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--set`, in their order.
    pub assignments: Vec<String>,
    /// `--listen`.
    pub listens: Vec<Listen>,
}

/// What `config check` tells of a file that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Keys in the file.
    pub keys: usize,
    /// Listens in the file.
    pub listens: usize,
}

impl Origin {
    /// The configuration with all listens. What is wrong is named with its place.
    pub fn load(&self) -> Result<Config, anyhow::Error> {
        let mut config = Config::load(self.file.as_deref(), &self.assignments)?;
        config.listen.extend(self.listens.iter().cloned());
        if config.listen.is_empty() {
            anyhow::bail!("nothing to serve: give --listen, or listen in the --config file");
        }
        listen::check(&config.listen)?;
        Ok(config)
    }
}

impl Config {
    /// Reads the file, if any, and applies the assignments in their order.
    pub fn load(file: Option<&Path>, assignments: &[String]) -> Result<Self, Error> {
        let mut table = toml::Table::new();
        let mut source = None;
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| Error::File {
                path: path.to_owned(),
                error,
            })?;
            let syntax = |error: &toml::de::Error| syntax(path, &text, error);
            table = text.parse().map_err(|e| syntax(&e))?;
            // Parsed from the text as well, for the line number.
            toml::from_str::<Self>(&text).map_err(|e| syntax(&e))?;
            source = Some((path, text));
        }
        for assignment in assignments {
            let (key, value) = assignment
                .split_once('=')
                .ok_or_else(|| Error::NotAnAssignment(assignment.clone()))?;
            let refuse = |message: String| Error::Assignment {
                assignment: assignment.clone(),
                message,
            };
            set(&mut table, key.trim(), value.trim()).map_err(refuse)?;
            Self::from_table(&table).map_err(|e| refuse(one_line(&e)))?;
        }
        let config = Self::from_table(&table).map_err(|e| Error::Range {
            key: "configuration",
            message: one_line(&e),
        })?;
        config.check().map_err(|error| {
            let source = source.as_ref().map(|(path, text)| (*path, text.as_str()));
            place(error, source, assignments)
        })?;
        Ok(config)
    }

    /// `config check`: the file by itself, its listens included.
    pub fn check_file(path: &Path, assignments: &[String]) -> Result<Checked, anyhow::Error> {
        let config = Self::load(Some(path), assignments)?;
        if !config.listen.is_empty() {
            listen::check(&config.listen)?;
        }
        let text = std::fs::read_to_string(path)?;
        Ok(Checked {
            keys: keys(&text).len(),
            listens: config.listen.len(),
        })
    }

    pub(super) fn from_table(table: &toml::Table) -> Result<Self, toml::de::Error> {
        Self::deserialize(toml::Value::Table(table.clone()))
    }
}

/// A value out of its range, with the place that set it: the last `--set`, or the line.
fn place(error: Error, source: Option<(&Path, &str)>, assignments: &[String]) -> Error {
    let Error::Range { key, message } = &error else {
        return error;
    };
    let sets = |a: &&String| a.split_once('=').is_some_and(|(k, _)| k.trim() == *key);
    if let Some(assignment) = assignments.iter().rev().find(sets) {
        return Error::Assignment {
            assignment: assignment.clone(),
            message: format!("{key}: {message}"),
        };
    }
    let Some((path, text)) = source else {
        return error;
    };
    match keys(text).into_iter().find(|(name, _)| name == key) {
        Some((_, span)) => Error::Syntax {
            path: path.to_owned(),
            line: line(text, span.start),
            message: format!("{key}: {message}"),
        },
        None => error,
    }
}

/// Puts a dotted key into the table. What does not read as a TOML value is text.
fn set(table: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    let (section, name) = key
        .split_once('.')
        .ok_or_else(|| format!("unknown key `{key}`"))?;
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    table
        .entry(section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()))
        .as_table_mut()
        .ok_or_else(|| format!("`{section}` is not a section"))?
        .insert(name.to_owned(), value);
    Ok(())
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start);
    let message = one_line(error);
    let key = keys(text)
        .into_iter()
        .rfind(|(_, span)| span.contains(&at))
        .map(|(key, _)| key);
    Error::Syntax {
        path: path.to_owned(),
        line: line(text, at),
        message: match key {
            Some(key) => format!("{key}: {message}"),
            None => message,
        },
    }
}

fn line(text: &str, at: usize) -> usize {
    text.get(..at)
        .map_or(1, |head| head.matches('\n').count() + 1)
}

/// The keys of a file, dotted, with the span from each to the end of its value. None if
/// the file is no TOML.
fn keys(text: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        walk("", table.get_ref(), &mut found);
    }
    found
}

fn walk(prefix: &str, table: &DeTable<'_>, found: &mut Vec<(String, Range<usize>)>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => walk(&format!("{name}."), inner, found),
            _ => found.push((name, key.span().start..value.span().end)),
        }
    }
}

/// A TOML error in one line.
fn one_line(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}

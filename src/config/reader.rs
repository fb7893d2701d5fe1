//! Takes each value from the first who set it, and remembers who that was.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::settings::{self, SETTINGS, Setting};
use super::{ConfigError, Flag, Inputs, Value, ValueSource};

/// Takes one value after the other, and remembers where each came from.
pub(super) struct Reader {
    flags: Vec<Flag>,
    environment: BTreeMap<String, String>,
    file_path: PathBuf,
    file: BTreeMap<String, String>,
    values: Vec<Value>,
    torchrun: Vec<Value>,
}

impl Reader {
    pub(super) fn new(inputs: Inputs) -> Result<Self, ConfigError> {
        let (file_path, text) = inputs.file.unwrap_or_default();
        let file = flat(&text).map_err(|cause| ConfigError::File { path: file_path.clone(), cause })?;
        if file.contains_key(&settings::CONFIG.key()) {
            let cause = "it names another configuration file, which is not followed".to_owned();
            return Err(ConfigError::File { path: file_path, cause });
        }
        let Inputs { flags, environment, .. } = inputs;
        Ok(Self { flags, environment, file_path, file, values: Vec::new(), torchrun: Vec::new() })
    }

    /// A setting that has a default of its own.
    pub(super) fn value<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (text, source) = match self.given(setting) {
            Some(given) => given,
            None => (setting.default.text().to_owned(), ValueSource::Default),
        };
        self.accept(setting, text, source, parse)
    }

    /// A setting that follows from something else when nobody sets it, and otherwise has a default.
    pub(super) fn derived(
        &mut self,
        setting: &Setting,
        derived: Option<(String, &'static str)>,
        default: &str,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Result<String, ConfigError> {
        let derived = || derived.map(|(text, from)| (text, ValueSource::Derived(from)));
        let (text, source) =
            self.given(setting).or_else(derived).unwrap_or_else(|| (default.to_owned(), ValueSource::Default));
        self.accept(setting, text, source, parse)
    }

    /// A setting that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        match self.given(setting) {
            Some((text, source)) => self.accept(setting, text, source, parse).map(Some),
            None => {
                let source = ValueSource::Default;
                self.values.push(Value { name: setting.name, text: String::new(), source });
                Ok(None)
            }
        }
    }

    /// A variable of torchrun's. What isn't given isn't shown either.
    pub(super) fn torchrun<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.environment.get(name).filter(|text| !text.is_empty()).cloned() else { return Ok(None) };
        let value = parsed(name, &text, &ValueSource::Environment, parse)?;
        self.torchrun.push(Value { name, text, source: ValueSource::Environment });
        Ok(Some(value))
    }

    /// What somebody set, from the first who did. An empty variable is none.
    fn given(&self, setting: &Setting) -> Option<(String, ValueSource)> {
        if let Some(flag) = self.flags.iter().find(|flag| flag.name == setting.name) {
            return Some((flag.text.clone(), ValueSource::Flag(flag.flag)));
        }
        if let Some(text) = self.environment.get(setting.name).filter(|text| !text.is_empty()) {
            return Some((text.clone(), ValueSource::Environment));
        }
        self.file.get(&setting.key()).map(|text| (text.clone(), ValueSource::File(self.file_path.clone())))
    }

    fn accept<T>(
        &mut self,
        setting: &Setting,
        text: String,
        source: ValueSource,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let value = parsed(setting.name, &text, &source, parse)?;
        self.values.push(Value { name: setting.name, text, source });
        Ok(value)
    }

    /// Names that look like ours and aren't.
    pub(super) fn unknown(&self) -> Vec<String> {
        let keys: Vec<String> = SETTINGS.iter().map(|setting| setting.key()).collect();
        let variables = self.environment.keys().filter_map(|name| Some((name, name.strip_prefix(settings::PREFIX)?)));
        let variables = variables.filter(|(_, rest)| !keys.contains(&rest.to_lowercase()));
        let variables = variables.map(|(name, rest)| {
            let hint = settings::nearest(&rest.to_lowercase());
            format!(
                "{name} is not a setting of xfer and has no effect{}",
                advice(hint.map(|setting| setting.name.to_owned()))
            )
        });
        let lines = self.file.keys().filter(|key| !keys.contains(key)).map(|key| {
            let hint = settings::nearest(&key.to_lowercase());
            let file = self.file_path.display();
            format!("`{key}` in {file} is not a setting of xfer and has no effect{}", advice(hint.map(Setting::key)))
        });
        variables.chain(lines).collect()
    }

    /// All values.
    pub(super) fn finish(mut self) -> Vec<Value> {
        let (text, source) = match self.given(&settings::CONFIG) {
            Some(given) => given,
            None if self.file_path.as_os_str().is_empty() => (String::new(), ValueSource::Default),
            None => (self.file_path.display().to_string(), ValueSource::Derived("the working directory")),
        };
        self.values.push(Value { name: settings::CONFIG.name, text, source });
        self.values.append(&mut self.torchrun);
        self.values
    }
}

fn parsed<T>(
    name: &'static str,
    text: &str,
    source: &ValueSource,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    parse(text.trim()).map_err(|expected| ConfigError::BadValue {
        name,
        text: text.to_owned(),
        source_of_value: source.clone(),
        expected,
    })
}

fn advice(hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("; did you mean {hint}?"),
        None => "; `xfer info --config` shows all there are".to_owned(),
    }
}

/// The lines of a configuration file: names and plain values.
fn flat(text: &str) -> Result<BTreeMap<String, String>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string().trim().to_owned())?;
    table
        .into_iter()
        .map(|(key, value)| match value {
            toml::Value::String(text) => Ok((key, text)),
            toml::Value::Integer(number) => Ok((key, number.to_string())),
            toml::Value::Float(number) => Ok((key, number.to_string())),
            toml::Value::Boolean(switch) => Ok((key, switch.to_string())),
            _ => Err(format!("`{key}` is neither text, a number, true nor false")),
        })
        .collect()
}

//! New plugins: a folder that builds, with a small plugin to change.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use parhelion_plugin_abi::Description;
use parhelion_plugin_host::Kind;

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust: cargo builds it.
    Rust,
    /// C: make and a compiler build it.
    C,
}

impl FromStr for Language {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rust" => Ok(Self::Rust),
            "c" => Ok(Self::C),
            _ => Err("give rust or c"),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::C => "c",
        })
    }
}

/// Why there is no new plugin.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The name is none that a plugin can have.
    #[error("{0}")]
    Name(String),
    /// Something is there already.
    #[error("{0} exists already, and nothing is overwritten; choose another name, or remove it")]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{path}: {source}; choose a folder that can be written")]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A file of the new folder, and its text.
type File = (String, String);

/// Writes the folder `parent/name`, which must not be there yet; the files in it.
///
/// # Errors
/// The name is no name of a plugin, the folder exists, or it cannot be written.
pub fn create(
    parent: &Path,
    name: &str,
    language: Language,
    kind: Kind,
) -> Result<Vec<PathBuf>, ProjectError> {
    let description = format!(r#"{{"kind": "code", "name": {}, "version": 1}}"#, quoted(name));
    Description::parse(description.as_bytes())
        .map_err(|error| ProjectError::Name(format!("{name:?} is no name of a plugin: {error}")))?;
    let folder = parent.join(name);
    let write = |path: &Path, source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => ProjectError::Exists(path.to_owned()),
        _ => ProjectError::Write { path: path.to_owned(), source },
    };
    std::fs::create_dir(&folder).map_err(|error| write(&folder, error))?;
    let files = match language {
        Language::Rust => rust(name, kind),
        Language::C => c(name, kind),
    };
    let mut written = Vec::with_capacity(files.len());
    for (file, text) in files {
        let path = folder.join(file);
        if let Some(within) = path.parent() {
            std::fs::create_dir_all(within).map_err(|error| write(within, error))?;
        }
        let opened = std::fs::File::create_new(&path);
        opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| write(&path, error))?;
        written.push(path);
    }
    Ok(written)
}

const SDK_RUST: &str = include_str!("../../sdk/parhelion_plugin.rs");
const SDK_RUST_WINDOW: &str = include_str!("../../sdk/parhelion_window.rs");
const SDK_C: &str = include_str!("../../sdk/parhelion_plugin.h");
const SDK_C_WINDOW: &str = include_str!("../../sdk/parhelion_window.h");
const RUST_CODE: &str = include_str!("../../template/src/lib.rs");
const RUST_MODEL: &str = include_str!("../templates/model.rs");
const C_CODE: &str = include_str!("../../examples/xor-parity.c");
const C_MODEL: &str = include_str!("../../examples/binomial.c");

fn rust(name: &str, kind: Kind) -> Vec<File> {
    let crate_name = name.replace('-', "_");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\nrust-version = \"1.63\"\npublish = false\n\n\
         [lib]\n# A plugin file, and a library for a host that compiles it in.\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [features]\n# Set by a host that compiles the plugin in: two plugins may not export the same symbols.\nbuilt-in = []\n\n\
         [profile.release]\nlto = true\nstrip = true\n\n# Stands alone, wherever it lies.\n[workspace]\n"
    );
    let config = "# Vector instructions, which make WebAssembly several times faster. The sandbox has them.\n\
                  [target.wasm32-unknown-unknown]\nrustflags = [\"-C\", \"target-feature=+simd128\"]\n";
    let readme = include_str!("../templates/rust.md").replace("NAME", name).replace("CRATE", &crate_name);
    let source = match kind {
        Kind::Code => named(RUST_CODE, r#""name": "xor-parity""#, name),
        Kind::Model => named(RUST_MODEL, r#""name": "binomial""#, name),
    };
    let mut files = vec![
        ("Cargo.toml".to_owned(), manifest),
        (".cargo/config.toml".to_owned(), config.to_owned()),
        (".gitignore".to_owned(), "target\n".to_owned()),
        ("README.md".to_owned(), readme),
        ("src/lib.rs".to_owned(), source),
        ("src/parhelion_plugin.rs".to_owned(), SDK_RUST.to_owned()),
    ];
    if kind == Kind::Code {
        files.push(("src/parhelion_window.rs".to_owned(), SDK_RUST_WINDOW.to_owned()));
    }
    files
}

fn c(name: &str, kind: Kind) -> Vec<File> {
    let source = match kind {
        Kind::Code => named(C_CODE, r#"\"name\": \"xor-parity-c\""#, name),
        Kind::Model => named(C_MODEL, r#"\"name\": \"binomial\""#, name),
    };
    let mut files = vec![
        ("Makefile".to_owned(), include_str!("../templates/c.mk").replace("NAME", name)),
        (".gitignore".to_owned(), "*.so\n*.wasm\n".to_owned()),
        ("README.md".to_owned(), include_str!("../templates/c.md").replace("NAME", name)),
        (format!("{name}.c"), source),
        ("parhelion_plugin.h".to_owned(), SDK_C.to_owned()),
    ];
    if kind == Kind::Code {
        files.push(("parhelion_window.h".to_owned(), SDK_C_WINDOW.to_owned()));
    }
    files
}

/// The source with another name in its description.
fn named(source: &str, field: &str, name: &str) -> String {
    let quote = if field.starts_with('\\') { "\\\"" } else { "\"" };
    source.replacen(field, &format!("{quote}name{quote}: {quote}{name}{quote}"), 1)
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            // No name has these; as they are, the text would be no JSON.
            letter if letter.is_control() => quoted.push('?'),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_complete_and_bear_the_name() {
        let parent = tempfile::tempdir().unwrap();
        for (n, (language, kind)) in [
            (Language::Rust, Kind::Code),
            (Language::Rust, Kind::Model),
            (Language::C, Kind::Code),
            (Language::C, Kind::Model),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("my-plugin-{n}");
            let files = create(parent.path(), &name, language, kind).unwrap();
            let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
            let described =
                texts.iter().filter(|text| text.replace('\\', "").contains(&format!("\"name\": \"{name}\"")));
            assert_eq!(described.count(), 1, "{language} {kind}");
            let old = ["\"xor-parity", "\"binomial\""];
            assert!(
                !texts.iter().any(|text| old.iter().any(|old| text.replace('\\', "").contains(old))),
                "{language} {kind}"
            );
            assert!(
                !texts.iter().any(|text| text.contains("NAME.c") || text.contains("CRATE")),
                "{language} {kind}"
            );
        }
    }

    #[test]
    fn nothing_is_overwritten_and_names_are_checked() {
        let parent = tempfile::tempdir().unwrap();
        create(parent.path(), "mine", Language::C, Kind::Code).unwrap();
        let source = parent.path().join("mine/mine.c");
        std::fs::write(&source, "changed").unwrap();
        let error = create(parent.path(), "mine", Language::Rust, Kind::Code).unwrap_err();
        assert!(matches!(error, ProjectError::Exists(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&source).unwrap(), "changed");
        for bad in ["", "../evil", "My Code", "a\"b", "a\nb", "-x"] {
            let error = create(parent.path(), bad, Language::C, Kind::Code).unwrap_err();
            assert!(matches!(error, ProjectError::Name(_)), "{bad:?}: {error}");
        }
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}

//! No file of a crate imports, directly or through others, from a file that imports from it.
//!
//! Files in a cycle can only be understood together. `cargo modules --acyclic` compares items and
//! not files, so it does not find most cycles.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use petgraph::{algo::tarjan_scc, graph::DiGraph};
use serde::Deserialize;

use super::{
    modules::{Crate, Import},
    source::Violation,
};
use crate::{command, directories::checkout};

/// Checks every crate of the workspace.
pub(super) fn check() -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for root in crate_roots()? {
        violations.extend(cycles(&Crate::read(&root)?.imports()));
    }
    Ok(violations)
}

/// Root files of all targets in the workspace: libraries, programs, tests and benchmarks.
fn crate_roots() -> Result<Vec<PathBuf>> {
    let output = command::output(
        Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(checkout()),
    )?;
    let metadata: Metadata =
        serde_json::from_str(&output).context("cannot read cargo's metadata")?;
    let targets = metadata
        .packages
        .into_iter()
        .flat_map(|package| package.targets);
    let root_of = |target: Target| {
        let root = target.src_path.strip_prefix(&metadata.workspace_root);
        root.map(Path::to_owned)
            .with_context(|| format!("{} is outside of the workspace", target.src_path.display()))
    };
    targets.map(root_of).collect()
}

/// The part of `cargo metadata`'s output that names the targets.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    src_path: PathBuf,
}

/// The imports that are part of a cycle, one for each pair of files.
fn cycles(imports: &[Import<'_>]) -> Vec<Violation> {
    let mut graph = DiGraph::<&Path, &Import<'_>>::new();
    let mut nodes = HashMap::new();
    for import in imports {
        let [from, to] = [import.from, import.to]
            .map(|file| *nodes.entry(file).or_insert_with(|| graph.add_node(file)));
        if graph.find_edge(from, to).is_none() {
            graph.add_edge(from, to, import);
        }
    }
    let mut violations = Vec::new();
    for component in tarjan_scc(&graph) {
        let edges = graph.edge_indices().filter(|edge| {
            graph.edge_endpoints(*edge).is_some_and(|(from, to)| {
                from != to && component.contains(&from) && component.contains(&to)
            })
        });
        violations.extend(edges.map(|edge| {
            let import = graph[edge];
            Violation {
                file: import.from.to_owned(),
                line: import.line,
                rule: format!(
                    "import cycle of {} files: `{}` is defined in {}, which depends on this file",
                    component.len(),
                    import.path,
                    import.to.display()
                ),
            }
        }));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import<'a>(from: &'a str, to: &'a str) -> Import<'a> {
        Import {
            from: Path::new(from),
            line: 1,
            to: Path::new(to),
            path: "x".to_owned(),
        }
    }

    #[test]
    fn a_cycle_over_several_files_is_found() {
        let imports =
            [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")].map(|(from, to)| import(from, to));
        let mut files: Vec<_> = cycles(&imports)
            .into_iter()
            .map(|found| found.file)
            .collect();
        files.sort();
        assert_eq!(files, [Path::new("a"), Path::new("b"), Path::new("c")]);
    }

    #[test]
    fn libraries_programs_tests_and_benchmarks_are_checked() {
        let roots = crate_roots().unwrap();
        for root in [
            "crates/image/src/lib.rs",
            "crates/agent/src/main.rs",
            "crates/changes/tests/trees.rs",
            "tests/support/lib.rs",
            "tests/machine/main.rs",
            "benches/lib.rs",
            "benches/network/main.rs",
        ] {
            assert!(roots.iter().any(|it| it == Path::new(root)), "{root}");
        }
    }

    #[test]
    fn imports_in_one_direction_are_no_cycle() {
        let imports = [("a", "b"), ("a", "c"), ("b", "c")].map(|(from, to)| import(from, to));
        assert!(cycles(&imports).is_empty());
    }
}

//! A crate's modules as the source text has them: which file defines which name, and which paths
//! each file mentions. Test code is left out.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Item, UseTree, Visibility, spanned::Spanned, visit::Visit};

use super::source::read;

/// Re-exports that lead to re-exports are followed this far; more is a loop in the source.
const DEEPEST_ALIAS: usize = 16;

type ModuleId = usize;

/// The modules of one crate.
pub(super) struct Crate {
    modules: Vec<Module>,
}

struct Module {
    file: PathBuf,
    parent: Option<ModuleId>,
    names: HashMap<String, Name>,
    globs: Vec<Vec<String>>,
    mentions: Vec<Mention>,
}

#[derive(Clone)]
enum Name {
    Defined,
    Module(ModuleId),
    Imported(Vec<String>),
}

struct Mention {
    path: Vec<String>,
    line: usize,
}

enum Resolved {
    Module(ModuleId),
    /// An item in the file of this module.
    Item(ModuleId),
}

/// A mention in one file of an item that another file of the crate defines.
pub(super) struct Import<'a> {
    pub(super) from: &'a Path,
    pub(super) line: usize,
    pub(super) to: &'a Path,
    /// The path as it is written.
    pub(super) path: String,
}

impl Crate {
    /// Reads the crate whose root module is in this file.
    pub(super) fn read(root: &Path) -> Result<Crate> {
        let mut modules = Crate {
            modules: Vec::new(),
        };
        // A root has its child modules beside it, whatever its name.
        let directory = root.parent().unwrap_or(root);
        modules.read_file(root, directory, None)?;
        Ok(modules)
    }

    /// Imports between the crate's files. `mod` declarations and re-exports are none.
    pub(super) fn imports(&self) -> Vec<Import<'_>> {
        let mut imports = Vec::new();
        for (id, module) in self.modules.iter().enumerate() {
            for mention in &module.mentions {
                let Some(Resolved::Item(target)) = self.resolve(id, &mention.path, 0) else {
                    continue;
                };
                let to = &self.modules[target].file;
                if *to != module.file {
                    imports.push(Import {
                        from: &module.file,
                        line: mention.line,
                        to,
                        path: mention.path.join("::"),
                    });
                }
            }
        }
        imports
    }

    fn read_file(
        &mut self,
        file: &Path,
        directory: &Path,
        parent: Option<ModuleId>,
    ) -> Result<ModuleId> {
        let text = read(file)?;
        let syntax =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.read_module(file, directory, parent, &syntax.items)
    }

    fn read_module(
        &mut self,
        file: &Path,
        directory: &Path,
        parent: Option<ModuleId>,
        items: &[Item],
    ) -> Result<ModuleId> {
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            names: HashMap::new(),
            globs: Vec::new(),
            mentions: Vec::new(),
        });
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(item) => {
                    let name = item.ident.to_string();
                    let child = match &item.content {
                        Some((_, items)) => {
                            self.read_module(file, &directory.join(&name), Some(id), items)?
                        }
                        None => {
                            let file = file_of_module(directory, &name)?;
                            self.read_file(&file, &directory_of_children(&file), Some(id))?
                        }
                    };
                    self.modules[id].names.insert(name, Name::Module(child));
                }
                Item::Use(item) => {
                    let is_reexport = !matches!(item.vis, Visibility::Inherited);
                    self.modules[id].add_use(&item.tree, &mut Vec::new(), is_reexport);
                }
                _ => self.modules[id].add_item(item),
            }
        }
        Ok(id)
    }

    fn resolve(&self, module: ModuleId, path: &[String], depth: usize) -> Option<Resolved> {
        let mut current = Resolved::Module(module);
        for (index, segment) in path.iter().enumerate() {
            let Resolved::Module(id) = current else {
                // What follows an item's name is a variant or an associated item.
                return Some(current);
            };
            current = match segment.as_str() {
                "self" => Resolved::Module(id),
                "super" => Resolved::Module(self.modules[id].parent?),
                "crate" => Resolved::Module(0),
                name => self.look_up(id, name, index == 0, depth)?,
            };
        }
        Some(current)
    }

    fn look_up(&self, id: ModuleId, name: &str, is_first: bool, depth: usize) -> Option<Resolved> {
        if depth > DEEPEST_ALIAS {
            return None;
        }
        match self.modules[id].names.get(name) {
            Some(Name::Defined) => Some(Resolved::Item(id)),
            Some(Name::Module(child)) => Some(Resolved::Module(*child)),
            // `use other_crate::other_crate` and the like lead out of the crate.
            Some(Name::Imported(path))
                if is_first && path.first().is_some_and(|first| first == name) =>
            {
                None
            }
            Some(Name::Imported(path)) => self.resolve(id, path, depth + 1),
            None => self.modules[id].globs.iter().find_map(|glob| {
                match self.resolve(id, glob, depth + 1)? {
                    Resolved::Module(globbed) if globbed != id => {
                        self.look_up(globbed, name, false, depth + 1)
                    }
                    _ => None,
                }
            }),
        }
    }
}

impl Module {
    fn add_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>, is_reexport: bool) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_use(&path.tree, prefix, is_reexport);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, prefix, is_reexport);
                }
            }
            UseTree::Glob(_) => self.globs.push(prefix.clone()),
            UseTree::Name(name) => {
                self.add_name(&name.ident, &name.ident, prefix, line, is_reexport)
            }
            UseTree::Rename(name) => {
                self.add_name(&name.ident, &name.rename, prefix, line, is_reexport);
            }
        }
    }

    fn add_name(
        &mut self,
        imported: &syn::Ident,
        local: &syn::Ident,
        prefix: &[String],
        line: usize,
        is_reexport: bool,
    ) {
        let mut path = prefix.to_vec();
        let mut local = local.to_string();
        if imported == "self" {
            // `use a::b::{self}` imports `b`.
            if local == "self" {
                local = path.last().cloned().unwrap_or(local);
            }
        } else {
            path.push(imported.to_string());
        }
        if !is_reexport {
            let path = path.clone();
            self.mentions.push(Mention { path, line });
        }
        self.names.insert(local, Name::Imported(path));
    }

    fn add_item(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        if let Some(name) = name {
            self.names.insert(name.to_string(), Name::Defined);
        }
        Mentions(&mut self.mentions).visit_item(item);
    }
}

struct Mentions<'a>(&'a mut Vec<Mention>);

impl<'ast> Visit<'ast> for Mentions<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.0.push(Mention {
                path: path
                    .segments
                    .iter()
                    .map(|segment| segment.ident.to_string())
                    .collect(),
                line: path.span().start().line,
            });
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.add_paths(&invocation.tokens);
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let is_test_only = match item {
            syn::ImplItem::Fn(item) => is_test(&item.attrs),
            _ => false,
        };
        if !is_test_only {
            syn::visit::visit_impl_item(self, item);
        }
    }
}

impl Mentions<'_> {
    /// A macro's arguments are tokens, in which paths of two segments and more are recognized.
    fn add_paths(&mut self, tokens: &TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        let mut finish = |path: &mut Vec<String>, line| {
            let path = std::mem::take(path);
            if path.len() > 1 {
                self.0.push(Mention { path, line });
            }
        };
        let mut groups = Vec::new();
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        finish(&mut path, line);
                    }
                    line = name.span().start().line;
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    finish(&mut path, line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        groups.push(group.stream());
                    }
                }
            }
        }
        finish(&mut path, line);
        for group in groups {
            self.add_paths(&group);
        }
    }
}

/// `mod.rs` has its child modules beside it, other files in a directory of their own name.
fn directory_of_children(file: &Path) -> PathBuf {
    if file.ends_with("mod.rs") {
        file.parent().unwrap_or(file).to_owned()
    } else {
        file.with_extension("")
    }
}

fn file_of_module(directory: &Path, name: &str) -> Result<PathBuf> {
    let candidates = [
        directory.join(format!("{name}.rs")),
        directory.join(name).join("mod.rs"),
    ];
    for candidate in &candidates {
        if crate::directories::checkout().join(candidate).is_file() {
            return Ok(candidate.clone());
        }
    }
    bail!(
        "the file of module {name} not found in {}",
        directory.display()
    )
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test") || condition.is_ident("fuzzing"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn imports(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let name = |file: &Path| {
            let inside = file.strip_prefix(directory.path()).unwrap();
            inside.display().to_string()
        };
        let modules = Crate::read(&directory.path().join("lib.rs")).unwrap();
        modules
            .imports()
            .iter()
            .map(|import| (name(import.from), name(import.to)))
            .collect()
    }

    fn pair(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn an_import_through_a_reexport_leads_to_the_defining_file() {
        let found = imports(&[
            ("lib.rs", "mod a;\nmod b;\npub use b::inner::Item;"),
            ("a.rs", "use crate::Item;"),
            ("b/mod.rs", "pub mod inner;"),
            ("b/inner.rs", "pub struct Item;"),
        ]);
        assert_eq!(found, [pair("a.rs", "b/inner.rs")]);
    }

    #[test]
    fn paths_in_code_and_in_macro_arguments_are_imports() {
        let found = imports(&[
            (
                "lib.rs",
                "mod a;\nmod b;\nfn f() { a::g(); println!(\"{}\", b::H); }",
            ),
            ("a.rs", "pub fn g() { super::b::H; }"),
            ("b.rs", "pub const H: u32 = 1;"),
        ]);
        let expected = [
            pair("lib.rs", "a.rs"),
            pair("lib.rs", "b.rs"),
            pair("a.rs", "b.rs"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn declarations_test_code_and_other_crates_are_no_imports() {
        let found = imports(&[
            ("lib.rs", "mod a;\nmod b;\npub use a::*;"),
            (
                "a.rs",
                "use std::fmt;\n#[cfg(test)]\nmod tests { use crate::b::H; }",
            ),
            ("b.rs", "pub const H: u32 = 1;"),
        ]);
        assert_eq!(found, []);
    }
}

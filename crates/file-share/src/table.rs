//! What is known of the files that the guest remembers. No file is touched here.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CStr,
};

use virtiofsd::filesystem::ROOT_ID;

use crate::identity::Identity;

/// The number under which the guest knows a file. Never given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Outer(pub u64);

/// The number under which the file system below holds a file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inner(pub u64);

/// Where a file was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub directory: Outer,
    pub name: Box<CStr>,
}

/// A file that the guest remembers.
#[derive(Debug)]
pub(crate) struct Node {
    pub identity: Identity,
    /// None when the guest has removed the name: held open, since it could not be found again.
    pub place: Option<Place>,
    /// None when the file is not held open below.
    pub inner: Option<Inner>,
    is_directory: bool,
    /// How often the guest was told of it and has not said that it forgot.
    lookups: u64,
    /// Requests that are being answered, and open files.
    uses: u32,
    /// When it was used last, on the table's own clock; its key in `idle`.
    last_use: u64,
}

/// What may be closed first. Directories are kept longer than files, because all below is found
/// through them, and a working directory that is renamed on the host can only be followed while
/// it is open. What has no name comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Nameless,
}

impl Node {
    fn kind(&self) -> Kind {
        match (&self.place, self.is_directory) {
            (None, _) => Kind::Nameless,
            (Some(_), true) => Kind::Directory,
            (Some(_), false) => Kind::File,
        }
    }

    fn is_idle(&self) -> bool {
        self.uses == 0 && self.inner.is_some()
    }
}

/// All files that the guest remembers.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: HashMap<Outer, Node>,
    by_identity: HashMap<Identity, Outer>,
    by_inner: HashMap<Inner, Outer>,
    /// By kind, those that are held open though nothing uses them, by their last use.
    idle: [BTreeMap<u64, Outer>; 3],
    clock: u64,
    last_number: u64,
    /// How many files and directories the guest has open.
    open_files: u64,
}

pub(crate) const ROOT: Outer = Outer(ROOT_ID);

impl Table {
    /// A table of the root alone, which stays open.
    pub fn new() -> Table {
        let root = Node {
            identity: Identity::default(),
            place: None,
            inner: Some(Inner(ROOT_ID)),
            is_directory: true,
            lookups: 1,
            uses: 1,
            last_use: 0,
        };
        Table {
            nodes: HashMap::from([(ROOT, root)]),
            by_identity: HashMap::new(),
            by_inner: HashMap::from([(Inner(ROOT_ID), ROOT)]),
            idle: Default::default(),
            clock: 0,
            last_number: ROOT_ID,
            open_files: 0,
        }
    }

    /// Forgets everything; numbers are still not given twice.
    pub fn clear(&mut self) {
        let last_number = self.last_number;
        *self = Table::new();
        self.last_number = last_number;
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many descriptors are held for the guest.
    pub fn held(&self) -> u64 {
        self.by_inner.len() as u64 + self.open_files
    }

    pub fn get(&self, outer: Outer) -> Option<&Node> {
        self.nodes.get(&outer)
    }

    pub fn by_inner(&self, inner: Inner) -> Option<Outer> {
        self.by_inner.get(&inner).copied()
    }

    pub fn by_identity(&self, identity: &Identity) -> Option<Outer> {
        self.by_identity.get(identity).copied()
    }

    /// Takes in a file that is held open below.
    pub fn insert(
        &mut self,
        identity: Identity,
        place: Place,
        inner: Inner,
        is_directory: bool,
    ) -> Outer {
        self.last_number += 1;
        let outer = Outer(self.last_number);
        let node = Node {
            identity,
            place: Some(place),
            inner: Some(inner),
            is_directory,
            lookups: 0,
            uses: 0,
            last_use: 0,
        };
        self.nodes.insert(outer, node);
        self.by_identity.insert(identity, outer);
        self.by_inner.insert(inner, outer);
        self.list(outer);
        outer
    }

    /// The file is held open below again.
    pub fn opened_below(&mut self, outer: Outer, inner: Inner) {
        if let Some(node) = self.nodes.get_mut(&outer) {
            node.inner = Some(inner);
            self.by_inner.insert(inner, outer);
            self.list(outer);
        }
    }

    /// The file that is to be closed below next when `limit` files may be open, and its number
    /// there. None when all are in use.
    pub fn close_coldest(&mut self, limit: u64) -> Option<Inner> {
        let [files, directories, nameless] = &self.idle;
        let many_directories = directories.len() as u64 > limit / 2;
        let order = if many_directories {
            [directories, files, nameless]
        } else {
            [files, directories, nameless]
        };
        let (_, &outer) = order.iter().find_map(|kind| kind.first_key_value())?;
        self.unlist(outer);
        let inner = self.nodes.get_mut(&outer)?.inner.take()?;
        self.by_inner.remove(&inner);
        Some(inner)
    }

    /// The guest was told of the file, by this name.
    pub fn told(&mut self, outer: Outer, place: Place) {
        if let Some(node) = self.nodes.get_mut(&outer) {
            node.lookups += 1;
        }
        self.moved(outer, place);
    }

    /// The file has this name now.
    pub fn moved(&mut self, outer: Outer, place: Place) {
        if outer != ROOT {
            self.set_place(outer, Some(place));
        }
    }

    /// The name is gone. Matters only if the file is known by it.
    pub fn name_removed(&mut self, outer: Outer, place: &Place) {
        let known = self.get(outer).and_then(|node| node.place.as_ref());
        if known == Some(place) {
            self.set_place(outer, None);
        }
    }

    fn set_place(&mut self, outer: Outer, place: Option<Place>) {
        self.unlist(outer);
        if let Some(node) = self.nodes.get_mut(&outer) {
            node.place = place;
        }
        self.list(outer);
    }

    /// The guest forgot the file this many times. Returns what is to be closed below.
    pub fn forgotten(&mut self, outer: Outer, count: u64) -> Option<Inner> {
        let node = self.nodes.get_mut(&outer).filter(|_| outer != ROOT)?;
        node.lookups = node.lookups.saturating_sub(count);
        self.drop_if_unknown(outer)
    }

    /// From here on the file stays open below.
    pub fn begin_use(&mut self, outer: Outer) {
        self.unlist(outer);
        if let Some(node) = self.nodes.get_mut(&outer) {
            node.uses += 1;
        }
    }

    /// Ends what [`Table::begin_use`] began. Returns what is to be closed below.
    pub fn end_use(&mut self, outer: Outer) -> Option<Inner> {
        let node = self.nodes.get_mut(&outer)?;
        node.uses = node.uses.saturating_sub(1);
        self.list(outer);
        self.drop_if_unknown(outer)
    }

    /// The guest has opened the file.
    pub fn opened(&mut self, outer: Outer) {
        self.begin_use(outer);
        self.open_files += 1;
    }

    /// The guest has closed the file. Returns what is to be closed below.
    pub fn closed(&mut self, outer: Outer) -> Option<Inner> {
        self.open_files = self.open_files.saturating_sub(1);
        self.end_use(outer)
    }

    fn drop_if_unknown(&mut self, outer: Outer) -> Option<Inner> {
        let node = self.nodes.get(&outer)?;
        if outer == ROOT || node.lookups > 0 || node.uses > 0 {
            return None;
        }
        self.unlist(outer);
        let node = self.nodes.remove(&outer)?;
        if self.by_identity.get(&node.identity) == Some(&outer) {
            self.by_identity.remove(&node.identity);
        }
        let inner = node.inner?;
        self.by_inner.remove(&inner);
        Some(inner)
    }

    fn list(&mut self, outer: Outer) {
        if let Some(node) = self.nodes.get_mut(&outer)
            && node.is_idle()
            && outer != ROOT
        {
            self.clock += 1;
            node.last_use = self.clock;
            self.idle[node.kind() as usize].insert(node.last_use, outer);
        }
    }

    fn unlist(&mut self, outer: Outer) {
        if let Some(node) = self.nodes.get(&outer) {
            self.idle[node.kind() as usize].remove(&node.last_use);
        }
    }
}

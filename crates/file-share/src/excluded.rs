//! Requests about directories that the guest does not see as they are on the host.

use std::{ffi::CStr, fs::File, io, sync::PoisonError};

use virtiofsd::filesystem::{Context, Entry, Extensions};

use crate::{
    bounded::{BoundedFileSystem, EXCLUDED_TIMEOUT, InnerFileSystem, PinnedFile},
    error::stale_handle,
    identity::FileIdentity,
    places::{Place, PlaceKind},
    table::{GuestInode, InnerInode},
};

/// A file that the guest's request is about.
pub(crate) enum Located<'a, F: InnerFileSystem> {
    /// A file of the host.
    Host(PinnedFile<'a, F>),
    /// An excluded directory, or an ancestor that the host lacks.
    Empty(Place),
}

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Notes which directories of `root`, the shared directory, are hidden.
    pub(crate) fn find_all_hidden(&self, root: &File) {
        for (place, path) in self.places.hidden() {
            if let Ok(identity) = FileIdentity::read(root, &path) {
                self.note_hidden(&identity, place);
            }
        }
    }

    fn note_hidden(&self, identity: &FileIdentity, place: Place) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.insert((identity.device, identity.inode), place);
    }

    /// Returns the hidden directory that has this number.
    pub(crate) fn hidden_number(&self, guest_inode: GuestInode) -> Option<Place> {
        let place = self.places.of(guest_inode)?;
        (self.places.kind(place) == PlaceKind::Hidden).then_some(place)
    }

    /// Returns the file that a request is about. An ancestor of places is found by its name, also
    /// if the host has replaced it.
    pub(crate) fn locate(&self, context: Context, inode: u64) -> io::Result<Located<'_, F>> {
        let Some(place) = self.places.of(GuestInode(inode)) else {
            return Ok(Located::Host(self.pin(context, inode)?));
        };
        let PlaceKind::Ancestor { is_required } = self.places.kind(place) else {
            return Ok(Located::Empty(place));
        };
        if let Ok(file) = self.pin(context, inode) {
            return Ok(Located::Host(file));
        }
        let (parent, name) = self.places.location(place);
        if let Located::Host(directory) = self.locate(context, parent.0)?
            && let Some(file) = self.pin_by_name(context, &directory, name)
            && file.guest_inode == place.inode()
        {
            return Ok(Located::Host(file));
        }
        if is_required {
            Ok(Located::Empty(place))
        } else {
            Err(stale_handle())
        }
    }

    /// Returns a file of the host, which stays open until the result is dropped. Fails for an
    /// excluded directory.
    pub(crate) fn pin_on_host(
        &self,
        context: Context,
        inode: u64,
    ) -> io::Result<PinnedFile<'_, F>> {
        match self.locate(context, inode)? {
            Located::Host(file) => Ok(file),
            Located::Empty(_) => Err(excluded()),
        }
    }

    /// Returns a file of the host to be changed. An ancestor of places that the host lacks is
    /// created: the guest has seen it. Fails for an excluded directory.
    pub(crate) fn pin_for_change(
        &self,
        context: Context,
        inode: u64,
    ) -> io::Result<PinnedFile<'_, F>> {
        let place = match self.locate(context, inode)? {
            Located::Host(file) => return Ok(file),
            Located::Empty(place) => place,
        };
        if !matches!(self.places.kind(place), PlaceKind::Ancestor { .. }) {
            return Err(excluded());
        }
        let (parent, name) = self.places.location(place);
        let directory = self.pin_for_change(context, parent.0)?;
        let mode = self.places.attributes(place).mode & 0o777;
        let made = self.inner.mkdir(
            context,
            directory.inner_inode,
            name,
            mode,
            0,
            Extensions::default(),
        );
        match made {
            Ok(entry) => self.close(context, Some(InnerInode(entry.inode))),
            // The host has just created it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = self.pin_by_name(context, &directory, name);
        file.ok_or_else(stale_handle)
    }

    /// Looks up a name that is a place.
    pub(crate) fn look_up_place(
        &self,
        context: Context,
        parent: u64,
        place: Place,
    ) -> io::Result<Entry> {
        let empty = || Ok(self.places.entry(place, EXCLUDED_TIMEOUT));
        let kind = self.places.kind(place);
        if kind == PlaceKind::Private {
            return empty();
        }
        let (_, name) = self.places.location(place);
        let found = match self.locate(context, parent)? {
            Located::Host(directory) if kind == PlaceKind::Hidden => {
                self.find_hidden(context, &directory, name, place)
            }
            Located::Host(directory) => self.look_up(context, &directory, name),
            Located::Empty(_) => Err(not_found()),
        };
        match found {
            Err(error)
                if kind == PlaceKind::Ancestor { is_required: true }
                    && error.raw_os_error() == Some(libc::ENOENT) =>
            {
                empty()
            }
            found => found,
        }
    }

    /// Looks up a hidden directory, and notes which it is.
    fn find_hidden(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        place: Place,
    ) -> io::Result<Entry> {
        let entry = self.inner.lookup(context, directory.inner_inode, name)?;
        let identity = self.identity(context, directory.inner_inode, name, &entry);
        self.close(context, Some(InnerInode(entry.inode)));
        if let Some(identity) = identity? {
            self.note_hidden(&identity, place);
        }
        Ok(self.places.entry(place, EXCLUDED_TIMEOUT))
    }

    /// Returns the hidden directory that has this identity.
    pub(crate) fn hidden_place(&self, identity: &FileIdentity) -> Option<Place> {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.get(&(identity.device, identity.inode)).copied()
    }
}

/// The error for an access to an excluded directory.
fn excluded() -> io::Error {
    io::Error::from_raw_os_error(libc::EACCES)
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

//! Base images after the data directory got another path: a home that was moved, or copied to
//! another host.

use container_engine::disk::{self, Backing};
use container_image::ImageStore;
use container_machine::{Bundle, BundleError, Bundles};

/// Makes the disks of all machines name the base images where they are now. A disk names its base
/// by an absolute path, and a base has the same file name everywhere.
pub(crate) fn follow(bundles: &Bundles, images: &ImageStore) -> Result<(), BundleError> {
    for id in bundles.ids()? {
        let followed = bundles
            .get(&id)
            .and_then(|bundle| follow_in(&bundle, images));
        if let Err(error) = followed {
            tracing::warn!("cannot look for the base image of machine {id:?}: {error}");
        }
    }
    Ok(())
}

fn follow_in(bundle: &Bundle, images: &ImageStore) -> Result<(), BundleError> {
    let files = bundle.disk_files()?;
    let files = files.iter().map(|file| bundle.disk_file(file));
    let old = bundle.has_old_disk().then(|| bundle.disk());
    for file in files.chain(old) {
        // Commands that use a damaged disk report it.
        let Ok(Backing::Base(base)) = disk::read_backing(&file) else {
            continue;
        };
        let Some(moved) = images.find_moved_base(&base) else {
            continue;
        };
        match disk::adopt(&file, &Backing::Base(moved.clone())) {
            Ok(()) => tracing::info!("{}: its base is {}", file.display(), moved.display()),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    Ok(())
}

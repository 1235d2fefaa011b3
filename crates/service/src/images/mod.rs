//! The verbs of images, one file each. Which machines use an image is known here, and not in
//! [`container_image`].

mod inspect;
mod inventory;
mod list;
mod load;
mod pull;
mod push;
mod remove;
mod save;
mod tag;
mod uses;

pub(crate) use inventory::InventoryError;
pub(crate) use remove::RemoveImagesError;
pub(crate) use uses::image_of;

//! `pull CACHE REFERENCE` pulls an image into an ext4 file system with the crate
//! `microsandbox-image`.

use std::path::Path;

use microsandbox_image::{
    GlobalCache, Platform, PullOptions, Registry, RootfsMaterialization,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cache, reference] = arguments.as_slice() else {
        return Err("usage: pull CACHE REFERENCE".into());
    };
    let cache = GlobalCache::new(Path::new(cache))?;
    let registry = Registry::builder(Platform::host_linux(), cache)
        .add_insecure_registries(vec![reference.split('/').next().unwrap_or_default().to_owned()])
        .build()?;
    let options = PullOptions {
        materialization: RootfsMaterialization::Flat,
        ..PullOptions::default()
    };
    let pulled = registry.pull(&reference.parse()?, &options).await?;
    println!("{:?}", pulled.layer_diff_ids);
    Ok(())
}

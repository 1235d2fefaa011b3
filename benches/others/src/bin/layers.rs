//! `layers ours|arcbox|microsandbox DISK LAYER…` writes uncompressed layers into an ext4 file
//! system of 64 GiB and prints the duration.

use std::{error::Error, fs::File, io::BufReader, path::Path, time::Instant};

use container_image::{Limits, fuzzing};
use microsandbox_image::{
    ext4::{Ext4FormatOptions, format_ext4_with_tree},
    tar::ingest_tar,
    tree::{DataSpool, FileTree, ResourceLimits},
};

const SIZE: u64 = 64 << 30;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [writer, disk, layers @ ..] = &arguments[..] else {
        return Err("usage: layers ours|arcbox|microsandbox DISK LAYER…".into());
    };
    let files = layers.iter().map(File::open);
    let layers: Vec<_> = files
        .map(|file| file.map(|file| BufReader::with_capacity(1 << 20, file)))
        .collect::<Result<_, _>>()?;
    let disk = Path::new(disk);
    let begin = Instant::now();
    match writer.as_str() {
        "ours" => fuzzing::write_layers(layers, disk, SIZE, Limits::default())?,
        "arcbox" => {
            let mut formatter = arcbox_ext4::Formatter::new(disk, 4096, SIZE)?;
            for layer in layers {
                formatter.unpack_tar(layer)?;
            }
            formatter.close()?;
            File::open(disk)?.sync_all()?;
        }
        "microsandbox" => {
            let mut spool = DataSpool::new(&disk.with_extension("spool"))?;
            let mut tree = FileTree::new();
            for layer in layers {
                let layer = tokio::fs::File::from_std(layer.into_inner());
                let layer = tokio::io::BufReader::with_capacity(1 << 20, layer);
                let limits = ResourceLimits::default();
                tree.merge_layer(ingest_tar(layer, &limits, Some(&mut spool)).await?);
            }
            let options = Ext4FormatOptions {
                size_bytes: SIZE,
                ..Ext4FormatOptions::default()
            };
            format_ext4_with_tree(disk, &options, tree)?;
            File::open(disk)?.sync_all()?;
        }
        other => return Err(format!("unknown writer {other}").into()),
    }
    println!("{writer}: {:.2} s", begin.elapsed().as_secs_f64());
    Ok(())
}

//! `container machine ssh-config`

mod entry;
mod user_file;

use std::env;

use clap::Args;
use container_client::Client;
use container_machine::{Directories, MachineId, SshFiles, home_directory};

pub(super) use entry::DOMAIN;
use entry::Entry;
use user_file::UserFile;

use crate::{failure::Failure, output};

/// Print or install the configuration with which ssh reaches machines.
///
/// With it, `ssh dev.machine` opens a shell in the machine `dev`, and scp, sftp, rsync, sshfs, git
/// and editors reach it too. The image needs no SSH server. A stopped machine is booted first. One
/// entry serves all machines; editors list those that it names.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine ssh-config --install
  container machine ssh-config --install dev web
  container machine ssh-config >> ~/.ssh/config
  container machine ssh-config --uninstall")]
pub(crate) struct SshConfig {
    /// Machines to name in the entry.
    #[arg(value_name = "ID")]
    ids: Vec<MachineId>,

    /// Include the entry in ~/.ssh/config.
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,

    /// Remove what --install has added.
    #[arg(long, conflicts_with = "ids")]
    uninstall: bool,
}

impl SshConfig {
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        if self.uninstall {
            let files = files()?;
            let file = user_file()?;
            let is_changed = file.remove(&files.configuration())?;
            files.remove_configuration()?;
            if is_changed {
                output::note(&format!("Removed from {}.", file.path().display()));
            }
            return Ok(());
        }
        for id in &self.ids {
            // Refuses one that does not exist.
            client.machine(id).await?;
        }
        let client_files = client.ssh_client_files().await?;
        let program = env::current_exe().map_err(Failure::cannot("find this program"))?;
        let entry = Entry {
            ids: &self.ids,
            is_for_all: self.install || self.ids.is_empty(),
            program: &program,
            files: &client_files,
        };
        if !self.install {
            return output::print(&entry.text()?);
        }
        let files = files()?;
        files.set_configuration(&entry.text()?)?;
        let file = user_file()?;
        if file.add(&files.configuration())? {
            output::note(&format!("Added to {}.", file.path().display()));
        }
        Ok(())
    }
}

fn files() -> Result<SshFiles, Failure> {
    Ok(SshFiles::open(&Directories::from_environment()?)?)
}

fn user_file() -> Result<UserFile, Failure> {
    let home = home_directory().map_err(Failure::cannot("determine your home directory"))?;
    UserFile::find(&home)
}

//! The machine's set-up, as the guest agent receives it.

use std::fs;

use container_network::{GATEWAY, GATEWAY6, PREFIX, PREFIX6};
use container_protocol::{
    BootOccasion, GuestGroup, GuestNetwork, GuestShare, GuestUser, MachineSetup, ResolverSettings,
};
use nix::unistd::{Group, getgroups};

use crate::{
    boot_error::BootError,
    file_share::TAG,
    launch::{Launch, RunSettings},
    resolver::host_settings,
};

/// Returns the message that makes the booted guest this machine. The first boot sets the user up,
/// by the machine's set-up script if it has one.
pub(crate) fn machine_setup(
    launch: &Launch,
    settings: &RunSettings,
    occasion: BootOccasion,
    mounts: Vec<GuestShare>,
) -> Result<MachineSetup, BootError> {
    Ok(MachineSetup {
        id: launch.id.to_string(),
        network: Some(guest_network(settings)),
        home_share: settings.home.as_ref().map(|home| GuestShare {
            tag: TAG.to_owned(),
            path: home.path.display().to_string(),
            read_only: home.read_only,
            private: home
                .private
                .iter()
                .filter_map(|path| Some(path.to_str()?.to_owned()))
                .collect(),
        }),
        mounts,
        user: GuestUser {
            username: settings.user.username.clone(),
            uid: settings.user.uid,
            gid: settings.user.gid,
            home: settings
                .user_home
                .as_ref()
                .map(|home| home.display().to_string()),
            groups: supplementary_groups(settings),
        },
        shell: settings.shell.clone(),
        setup_script: if occasion == BootOccasion::First {
            read_setup_script(settings)?
        } else {
            None
        },
        occasion,
        rescue: settings.rescue,
        virtualization: launch.virtualization,
        init_environment: settings.init_env.clone(),
        stop_signal: settings.stop_signal.clone(),
        time_zone: settings.time_zone.clone(),
    })
}

/// Returns the supplementary groups of this process, which are those of the file share's too. Root
/// needs none. An isolated machine does not get their names.
fn supplementary_groups(settings: &RunSettings) -> Vec<GuestGroup> {
    let user = &settings.user;
    if user.uid == 0 {
        return Vec::new();
    }
    let groups = getgroups().unwrap_or_else(|error| {
        tracing::warn!("cannot read the supplementary groups of this process: {error}");
        Vec::new()
    });
    groups
        .into_iter()
        .filter(|group| group.as_raw() != user.gid)
        .map(|group| GuestGroup {
            gid: group.as_raw(),
            // The group works without its name.
            name: Group::from_gid(group)
                .ok()
                .flatten()
                .filter(|_| !settings.isolated)
                .map(|group| group.name),
        })
        .collect()
}

fn guest_network(settings: &RunSettings) -> GuestNetwork {
    let address = settings.network.address.guest();
    GuestNetwork {
        address,
        prefix: PREFIX,
        gateway: GATEWAY,
        address6: container_network::ipv6_address(address),
        prefix6: PREFIX6,
        gateway6: GATEWAY6,
        dns: GATEWAY,
        resolver: if settings.isolated {
            ResolverSettings::default()
        } else {
            host_settings()
        },
    }
}

fn read_setup_script(settings: &RunSettings) -> Result<Option<Vec<u8>>, BootError> {
    let Some(path) = &settings.setup_script else {
        return Ok(None);
    };
    let script = fs::read(path).map_err(|cause| BootError::SetupScript {
        path: path.clone(),
        cause,
    })?;
    Ok(Some(script))
}

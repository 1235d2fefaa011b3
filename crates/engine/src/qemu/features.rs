//! What machines need of a QEMU, and a QEMU may lack.

use super::command_line::SHARE_DEVICE;

/// Oldest major version that machines were tested with.
const MIN_VERSION: u32 = 10;

/// Devices of every machine.
const DEVICES: [&str; 8] = [
    "pcie-root-port",
    "virtio-balloon-pci",
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtserialport",
    SHARE_DEVICE,
];

/// Returns what is missing, from the outputs of `--version` and `-device help`.
pub(super) fn missing(version: &str, devices: &str) -> Vec<String> {
    let mut missing = Vec::new();
    // One whose version is not known may be new.
    if major_version(version).is_some_and(|major| major < MIN_VERSION) {
        missing.push(format!("version {MIN_VERSION} or later"));
    }
    let lacking = DEVICES
        .iter()
        .filter(|device| !devices.contains(&format!("name \"{device}\"")));
    missing.extend(lacking.map(|device| format!("the device {device}")));
    missing
}

/// Parses the major version of `QEMU emulator version 10.0.2 (…)`.
fn major_version(version: &str) -> Option<u32> {
    let (_, number) = version.split_once(" version ")?;
    let end = number.find(|letter: char| !letter.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_and_missing_devices_are_named() {
        let all: String = DEVICES
            .iter()
            .map(|device| format!("name \"{device}\", bus PCI\n"))
            .collect();
        let version = "QEMU emulator version 10.0.2 (Debian 1:10.0.2)";
        assert_eq!(missing(version, &all), [""; 0]);
        assert_eq!(missing("QEMU from git", &all), [""; 0]);
        let lacking = all.replace(SHARE_DEVICE, "vhost-user-scsi-pci");
        assert_eq!(
            missing("QEMU emulator version 7.2.11", &lacking),
            ["version 10 or later", "the device vhost-user-fs-pci"]
        );
    }
}

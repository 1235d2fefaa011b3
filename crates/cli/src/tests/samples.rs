//! Sample machines and images.

use std::num::NonZeroU32;

use container_api::{
    ImageBase, ImageConfig, ImageDetails, ImageHistory, ImageSummary, MachineState, Status,
};
use container_machine::{
    Descriptor, DiskCapacity, HomeMount, IdleSuspend, ImageDescription, KernelParameters, Memory,
    Mount, MountMode, Platform, PrivateHome, UserSetup,
};
use container_protocol::{EgressMode, SocketForward, SocketSource, local::BootKind};
use jiff::Timestamp;
use serde_json::Value;

/// Returns a running machine with every field set, a stopped one, and one that is starting.
pub(crate) fn machines() -> Vec<MachineState> {
    let dev = MachineState {
        allow: vec!["*.example.com:443".parse().unwrap()],
        boot: Some(BootKind::Cold {
            reason: "no template has been made yet".to_owned(),
        }),
        container_id: Some("dev-1a2b3c".to_owned()),
        cpus: NonZeroU32::new(4).unwrap(),
        created_date: Timestamp::from_second(1_764_023_457).unwrap(),
        default: true,
        disk_capacity: DiskCapacity::default(),
        disk_size: 7_974_912,
        egress: EgressMode::Public,
        home_mount: HomeMount::Rw,
        id: "dev".parse().unwrap(),
        idle_suspend: "30m".parse().unwrap(),
        image: image("127.0.0.1:5000/machines/debian:12"),
        init: Some("/usr/lib/systemd/systemd".to_owned()),
        ip_address: Some([192, 168, 64, 2].into()),
        isolated: true,
        kernel: Some("/boot/vmlinuz".into()),
        kernel_args: "quiet".parse().unwrap(),
        memory: Memory::try_from(12052 << 20).unwrap(),
        mounts: vec![Mount {
            mode: MountMode::Ro,
            source: "/data/sets".parse().unwrap(),
            target: "/srv/sets".parse().unwrap(),
        }],
        pause_reason: Some("No space left on device".to_owned()),
        platform: Platform {
            architecture: "arm64".to_owned(),
            os: "linux".to_owned(),
            variant: Some("v8".to_owned()),
        },
        started_date: Some(Timestamp::from_second(1_764_023_460).unwrap()),
        status: Status::Running,
        user_setup: UserSetup {
            username: "ann".to_owned(),
            uid: 1000,
            gid: 1000,
        },
        private_home: PrivateHome::default(),
        publish: vec!["8080:80".parse().unwrap()],
        sockets: vec![SocketForward {
            source: SocketSource::Machine,
            machine: "/run/docker.sock".parse().unwrap(),
            host: "/run/user/1000/container/machines/dev/sockets/docker.sock"
                .parse()
                .unwrap(),
        }],
        virtualization: true,
    };
    let web_1 = MachineState {
        allow: Vec::new(),
        boot: None,
        container_id: None,
        cpus: NonZeroU32::new(16).unwrap(),
        default: false,
        disk_size: 0,
        egress: EgressMode::All,
        id: "web-1".parse().unwrap(),
        idle_suspend: IdleSuspend::default(),
        image: image("docker.io/library/alpine:3.22"),
        init: None,
        ip_address: None,
        isolated: false,
        kernel: None,
        kernel_args: KernelParameters::default(),
        memory: Memory::try_from(1 << 30).unwrap(),
        mounts: Vec::new(),
        pause_reason: None,
        platform: Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
        },
        started_date: None,
        status: Status::Stopped,
        private_home: PrivateHome::default(),
        publish: Vec::new(),
        sockets: Vec::new(),
        virtualization: false,
        ..dev.clone()
    };
    let web_2 = MachineState {
        boot: None,
        id: "web-2".parse().unwrap(),
        disk_size: 3 << 30,
        status: Status::Starting,
        ..web_1.clone()
    };
    vec![dev, web_1, web_2]
}

fn image(reference: &str) -> ImageDescription {
    ImageDescription {
        descriptor: Descriptor {
            digest: format!("sha256:{}", "0".repeat(64)),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            size: 503,
        },
        reference: reference.to_owned(),
    }
}

/// Returns an image with every field set, one that no machine uses, and one without a reference.
pub(crate) fn images() -> Vec<ImageSummary> {
    let debian = ImageSummary {
        created_date: Some(Timestamp::from_second(1_764_000_000).unwrap()),
        digest: format!("sha256:{}", "1a2b".repeat(16)),
        disk_size: 412 << 20,
        machines: vec!["dev".parse().unwrap()],
        name: Some("127.0.0.1:5000/machines/debian".to_owned()),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        reference: Some("127.0.0.1:5000/machines/debian:12".to_owned()),
        shared_size: 3 << 20,
        tag: Some("12".to_owned()),
    };
    let alpine = ImageSummary {
        digest: format!("sha256:{}", "3c4d".repeat(16)),
        disk_size: 3 << 20,
        machines: vec![],
        name: Some("alpine".to_owned()),
        platforms: vec!["linux/amd64".to_owned()],
        reference: Some("docker.io/library/alpine:3.22".to_owned()),
        shared_size: 0,
        tag: Some("3.22".to_owned()),
        ..debian.clone()
    };
    let unnamed = ImageSummary {
        created_date: None,
        digest: format!("sha256:{}", "5e6f".repeat(16)),
        machines: vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()],
        name: None,
        reference: None,
        tag: None,
        ..alpine.clone()
    };
    vec![debian, alpine, unnamed]
}

/// Returns the paths of all values in a JSON object, in order.
pub(crate) fn fields(outer: &str, value: &Value) -> Vec<String> {
    let Some(inner) = value.as_object() else {
        return vec![outer.to_owned()];
    };
    let inner = inner.iter().flat_map(|(key, value)| match outer {
        "" => fields(key, value),
        _ => fields(&format!("{outer}.{key}"), value),
    });
    inner.collect()
}

/// Returns the details of an image, with every field set.
pub(crate) fn image_details() -> ImageDetails {
    let descriptor = |letter: &str, media_type: &str| Descriptor {
        digest: format!("sha256:{}", letter.repeat(64)),
        media_type: media_type.to_owned(),
        size: 503,
    };
    let created = Some(Timestamp::from_second(1_764_000_000).unwrap());
    ImageDetails {
        bases: vec![ImageBase {
            disk_size: 300 << 20,
            machines: vec!["dev".parse().unwrap()],
            path: "/home/ann/.local/share/container/images/bases/1.ext4".into(),
        }],
        config: ImageConfig {
            command: vec!["/bin/bash".to_owned()],
            entrypoint: vec!["/entry".to_owned()],
            environment: vec!["PATH=/usr/bin:/bin".to_owned()],
            labels: [("maintainer".to_owned(), "ann".to_owned())].into(),
            stop_signal: Some("SIGRTMIN+3".to_owned()),
            user: Some("ann".to_owned()),
            working_directory: Some("/srv".to_owned()),
        },
        created_date: created,
        descriptor: descriptor("a", "application/vnd.oci.image.index.v1+json"),
        disk_size: 412 << 20,
        history: vec![ImageHistory {
            comment: Some("by hand".to_owned()),
            created_by: Some("COPY . /".to_owned()),
            created_date: created,
            empty_layer: true,
        }],
        layers: vec![descriptor(
            "b",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        )],
        machines: vec!["dev".parse().unwrap()],
        manifest: Some(descriptor(
            "c",
            "application/vnd.oci.image.manifest.v1+json",
        )),
        platform: Some("linux/amd64".to_owned()),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        references: vec!["127.0.0.1:5000/machines/debian:12".to_owned()],
        shared_size: 3 << 20,
    }
}

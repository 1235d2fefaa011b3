//! Marks of inotify and fanotify descriptors, as `/proc/PID/fdinfo/FD` lists them
//! (proc_pid_fdinfo(5)).

use super::node_handle;

/// Returns the nodes that a descriptor watches on a device, which is the kernel's number
/// (`sdev:`). Marks without a file handle, such as those of mounts, are ignored.
pub(super) fn watched_nodes(fdinfo: &str, device: u32) -> impl Iterator<Item = u64> {
    let marks = fdinfo
        .lines()
        .filter(|line| line.starts_with("inotify ") || line.starts_with("fanotify ino:"));
    marks.filter_map(move |mark| watched_node(mark, device))
}

fn watched_node(mark: &str, device: u32) -> Option<u64> {
    let field = |name: &str| {
        let mut fields = mark.split_ascii_whitespace();
        fields.find_map(|field| field.strip_prefix(name))
    };
    let number = |name| u32::from_str_radix(field(name)?, 16).ok();
    if number("sdev:")? != device {
        return None;
    }
    let kind = number("fhandle-type:")?.cast_signed();
    node_handle::node(kind, &bytes(field("f_handle:")?)?)
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "pos:\t0\nflags:\t02000000\nmnt_id:\t15\nino:\t1058\n\
        inotify wd:2 ino:7 sdev:2c mask:fce ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:000000000a00000000000000\n\
        inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n\
        fanotify flags:10 event-flags:0\n\
        fanotify mnt_id:12 mflags:40 mask:38 ignored_mask:0\n\
        fanotify ino:4f969 sdev:2c mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:c fhandle-type:81 f_handle:010000000200000000000000\n";

    #[test]
    fn nodes_of_the_device_are_found() {
        let nodes: Vec<u64> = watched_nodes(INFO, 0x2c).collect();
        assert_eq!(nodes, [10, 1 << 32 | 2]);
        assert_eq!(watched_nodes(INFO, 0x2d).count(), 0);
    }

    #[test]
    fn incomplete_marks_are_ignored() {
        let nodes = "inotify wd:1 ino:7 sdev:2c mask:fce\ninotify sdev:2c fhandle-type:81 f_handle:0g\ninotify";
        assert_eq!(watched_nodes(nodes, 0x2c).count(), 0);
    }
}

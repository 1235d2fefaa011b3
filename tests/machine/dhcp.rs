//! Images that configure their network themselves keep the machine's addresses.

use end_to_end::{Lab, World, eventually};

crate::declare::tests![
    networkd_gets_the_machines_addresses,
    udhcpc_gets_the_machines_lease,
];

/// The machine's addresses inside, without the prefix.
struct Addresses {
    v4: String,
    v6: String,
}

fn addresses(world: &World, machine: &str) -> Addresses {
    let inspected = world.inspect(machine);
    let host = inspected["ipAddress"].as_str().unwrap();
    let octets: Vec<u8> = host.split('.').map(|it| it.parse().unwrap()).collect();
    let [_, _, x, y] = octets[..] else {
        panic!("{host} has no four octets");
    };
    Addresses {
        v4: format!("198.19.{x}.{y}"),
        v6: format!("fd7e:41c9:b35a::c613:{:x}", u16::from_be_bytes([x, y])),
    }
}

/// Removes the card's addresses and routes, so that only a DHCP client brings them back.
const FLUSH: &str =
    "ip -4 addr flush dev eth0; ip -6 addr flush dev eth0 scope global; ip -6 route del default";

/// Checks that the machine has its addresses by DHCP, and that connections and names work.
fn check(world: &World, own: &Addresses, manager: &str) {
    let inside = |line: &str| world.inside("dev", line);
    eventually(&format!("{manager} has set the addresses"), || {
        let shown = inside("ip -o addr show dev eth0 scope global");
        shown.contains(&format!("inet {}/16", own.v4))
            && shown.contains(&format!("inet6 {}/", own.v6))
    });
    let route = inside("ip route show default");
    assert!(route.contains("via 198.19.0.1"), "{manager}: {route}");
    let route = inside("ip -6 route show default");
    assert!(route.contains("via fe80::c613:1"), "{manager}: {route}");
    let hosts = inside("getent ahostsv4 host.docker.internal");
    assert!(hosts.starts_with("198.19.0.1 "), "{manager}: {hosts}");
    // Over IPv6, from the leased address, which can be used at once.
    inside("bash -c 'exec 3<>/dev/tcp/fd7e:41c9:b35a::c613:1/53'");
}

fn networkd_gets_the_machines_addresses(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let inside = |line: &str| world.inside("dev", line);
    let own = addresses(&world, "dev");

    // The image has no udev. systemd-networkd removes addresses that it has not set. `wait-online`
    // fails after two minutes without a lease.
    inside(&format!(
        "printf '[Match]\\nName=e*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/e.network; {FLUSH}; \
         systemctl start systemd-networkd systemd-networkd-wait-online"
    ));
    check(&world, &own, "systemd-networkd");
}

/// busybox' client, whose script shows and uses the lease.
fn udhcpc_gets_the_machines_lease(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    let inside = |line: &str| world.inside("dev", line);
    let own = addresses(&world, "dev");
    inside("ip addr flush dev eth0; test -z \"$(ip route)\"");
    let script = "#!/bin/sh\n[ $1 = bound ] || exit 0\nip addr add $ip/$mask dev $interface\nip route add default via $router\necho $ip/$mask $router $dns\n";
    inside(&format!("printf '{script}' > /script; chmod 755 /script"));
    let leased = inside("udhcpc -i eth0 -n -q -f -s /script 2> /dev/null");
    assert_eq!(leased, format!("{}/16 198.19.0.1 198.19.0.1\n", own.v4));
    inside("nslookup host.container.internal");
}

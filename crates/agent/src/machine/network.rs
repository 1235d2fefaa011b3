//! Configures the machine's network interfaces.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use container_protocol::GuestNetwork;
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{LinkAttribute, LinkMessage},
    },
};

use tokio::task::JoinError;

use crate::kernel_log;

/// Error of configuring the network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The kernel's netlink socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(std::io::Error),
    /// The kernel refuses a request.
    #[error("cannot {operation}: {cause}")]
    Refused {
        /// The refused operation, as an infinitive.
        operation: &'static str,
        /// The kernel's error.
        cause: rtnetlink::Error,
    },
    /// There is no Ethernet interface.
    #[error(
        "network interface not found (the kernel needs CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_NET)"
    )]
    NoInterface,
    /// The task that configures it has ended early.
    #[error("the set-up was interrupted: {0}")]
    Interrupted(JoinError),
}

/// Configures the loopback interface and, with a network, the machine's Ethernet interface.
pub(super) async fn set_up(network: Option<&GuestNetwork>) -> Result<(), NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
    let connection = tokio::spawn(connection);
    let done = configure(&handle, network).await;
    connection.abort();
    done
}

async fn configure(handle: &Handle, network: Option<&GuestNetwork>) -> Result<(), NetworkError> {
    let links = handle.link().get().execute().try_collect::<Vec<_>>().await;
    let links = links.map_err(refused("list the network interfaces"))?;
    let index_by_name = |wanted: &dyn Fn(&str) -> bool| {
        links.iter().find_map(|link| {
            let matches = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if wanted(name));
            link.attributes.iter().any(matches).then_some(link.header.index)
        })
    };
    if let Some(loopback) = index_by_name(&|name| name == "lo") {
        bring_up(handle, loopback).await?;
    }
    let Some(network) = network else {
        return Ok(());
    };
    // The kernel's name for it is eth0; udev is not running yet.
    let index = index_by_name(&|name| name.starts_with('e')).ok_or(NetworkError::NoInterface)?;
    prepare_v6(&links, index);
    bring_up(handle, index).await?;
    handle
        .address()
        .add(index, IpAddr::V4(network.address), network.prefix)
        .execute()
        .await
        .map_err(refused("set the machine's address"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(network.gateway)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .map_err(refused("set the default route"))?;
    // IPv6 is optional: the kernel may lack it, or have it disabled.
    if let Err(error) = configure_v6(handle, index, network).await {
        kernel_log::error(&format!("the machine has no IPv6: {error}"));
    }
    Ok(())
}

/// Settings of the kernel for IPv6 on the card, which must exist before it is brought up.
const V6_SETTINGS: [(&str, &str); 2] = [
    // The kernel would add a second default route when the gateway advertises itself. Network
    // managers in the image change this as they need.
    ("accept_ra", "0"),
    // No other host is on this network, so duplicate address detection would only cost time. While
    // it checks the address of a DHCP client in the image, the kernel connects from the link-local
    // address.
    ("accept_dad", "0"),
];

/// Writes [`V6_SETTINGS`].
fn prepare_v6(links: &[LinkMessage], index: u32) {
    let link = links.iter().find(|link| link.header.index == index);
    let attributes = link.into_iter().flat_map(|link| &link.attributes);
    for attribute in attributes {
        if let LinkAttribute::IfName(name) = attribute {
            for (setting, value) in V6_SETTINGS {
                // The file is missing in a kernel without IPv6.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value);
            }
        }
    }
}

async fn configure_v6(
    handle: &Handle,
    index: u32,
    network: &GuestNetwork,
) -> Result<(), NetworkError> {
    let address = IpAddr::V6(network.address6);
    let mut request = handle.address().add(index, address, network.prefix6);
    // No other host is on this network, so duplicate address detection would only cost time.
    request.message_mut().header.flags = AddressHeaderFlags::Nodad;
    let added = request.execute().await;
    added.map_err(refused("set the machine's IPv6 address"))?;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .gateway(network.gateway6)
        .build();
    let added = handle.route().add(route).execute().await;
    added.map_err(refused("set the default route for IPv6"))
}

async fn bring_up(handle: &Handle, index: u32) -> Result<(), NetworkError> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(refused("bring up a network interface"))
}

fn refused(operation: &'static str) -> impl Fn(rtnetlink::Error) -> NetworkError {
    move |cause| NetworkError::Refused { operation, cause }
}
